//! The servers of the matrix.

mod axum;
mod axum_server;
mod http3;
mod hyper;
mod proxy;
mod tonic;

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use crate::{app::App, client::Protocol, target::Target};

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub target: Target,
    /// Ends when the server was stopped and all of its connections have ended.
    pub stopped: JoinHandle<Result<(), BoxError>>,
}

impl Running {
    fn new(
        target: Target,
        serving: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) -> Self {
        Self {
            target,
            stopped: tokio::spawn(serving),
        }
    }
}

type Serve = fn(App, CancellationToken) -> BoxFuture<'static, Result<Running, BoxError>>;

/// A row of the matrix: a server, and the protocol of its client.
#[derive(Clone, Copy)]
pub struct Server {
    /// The name in the table.
    pub name: &'static str,
    /// The row of the short table that it belongs to.
    pub group: &'static str,
    /// What the client speaks.
    pub protocol: Protocol,
    serve: Serve,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Server {
    /// Starts the server. It stops in order when the token is cancelled.
    ///
    /// # Errors
    ///
    /// If it cannot start.
    pub async fn serve(&self, app: App, stop: CancellationToken) -> Result<Running, BoxError> {
        (self.serve)(app, stop).await
    }

    /// Returns whether this is a proxy, behind which there is a second application.
    #[must_use]
    pub fn is_proxy(&self) -> bool {
        self.group == PROXY
    }
}

macro_rules! servers {
    ($($name:literal, $group:expr, $protocol:ident, $serve:path;)*) => {
        /// All servers of the matrix.
        pub const SERVERS: &[Server] = &[$(Server {
            name: $name,
            group: $group,
            protocol: Protocol::$protocol,
            serve: |app, stop| Box::pin($serve(app, stop)),
        },)*];
    };
}

const HYPER: &str = "`axum::serve` on TCP and Unix sockets, axum-server with rustls, hyper-util";
const H3: &str = "h3 with h3-quinn";
const TONIC: &str = "tonic";
const PROXY: &str = "reverse proxy with the client of hyper-util";

servers! {
    "axum::serve, HTTP/1.1", HYPER, Http1, axum::tcp;
    "axum::serve, Unix socket, HTTP/1.1", HYPER, Http1, axum::unix;
    "axum-server with rustls, HTTP/1.1", HYPER, Http1, axum_server::serve;
    "hyper-util auto, HTTP/1.1", HYPER, Http1, hyper::serve;
    "axum::serve, HTTP/2", HYPER, Http2, axum::tcp;
    "axum::serve, Unix socket, HTTP/2", HYPER, Http2, axum::unix;
    "axum-server with rustls, HTTP/2", HYPER, Http2, axum_server::serve;
    "hyper-util auto, HTTP/2", HYPER, Http2, hyper::serve;
    "h3 and h3-quinn, HTTP/3", H3, Http3, http3::serve;
    "tonic, gRPC", TONIC, Grpc, tonic::grpc;
    "tonic, gRPC-Web outside", TONIC, GrpcWeb, tonic::web_outside;
    "tonic, gRPC-Web inside", TONIC, GrpcWeb, tonic::web_inside;
    "proxy, HTTP/1.1 to HTTP/1.1", PROXY, Http1, proxy::to_http1;
    "proxy, HTTP/1.1 to HTTP/2", PROXY, Http1, proxy::to_http2;
    "proxy, HTTP/2 to HTTP/1.1", PROXY, Http2, proxy::to_http1;
    "proxy, HTTP/2 to HTTP/2", PROXY, Http2, proxy::to_http2;
}
