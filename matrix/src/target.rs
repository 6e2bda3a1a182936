//! Where a server listens, also as text for another process.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tower_background::BoxError;

use crate::tls;

/// A connection of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// TCP without encryption.
    Tcp(SocketAddr),
    /// TCP or QUIC, with TLS and this certificate.
    Tls(SocketAddr, CertificateDer<'static>),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// Connects. With TLS, the client asks for this protocol.
    pub(crate) async fn connect(&self, protocol: &str) -> Result<Box<dyn Io>, BoxError> {
        Ok(match self {
            Self::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tls(address, certificate) => {
                let connector =
                    tokio_rustls::TlsConnector::from(tls::client(certificate, protocol)?);
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost")?;
                Box::new(connector.connect(name, stream).await?)
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Unix(path) => write!(f, "unix {}", path.display()),
            Self::Tls(address, certificate) => {
                write!(f, "tls {address} ")?;
                certificate
                    .iter()
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl FromStr for Target {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, BoxError> {
        let words: Vec<_> = text.split(' ').collect();
        match words[..] {
            ["tcp", address] => Ok(Self::Tcp(address.parse()?)),
            ["unix", path] => Ok(Self::Unix(path.into())),
            ["tls", address, hex] => {
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16);
                let bytes = (0..hex.len()).step_by(2).map(byte);
                let certificate = bytes.collect::<Result<Vec<_>, _>>()?;
                Ok(Self::Tls(address.parse()?, certificate.into()))
            }
            _ => Err(format!("{text:?} is no target").into()),
        }
    }
}
