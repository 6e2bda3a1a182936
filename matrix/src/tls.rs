//! The certificate of a server, and what both sides need to use it.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tower_background::BoxError;

/// Returns the configuration of a server for `localhost`, and the certificate that clients must trust.
pub(crate) fn server(
    protocols: &[&str],
) -> Result<(ServerConfig, CertificateDer<'static>), BoxError> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der())?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    config.alpn_protocols = wire_names(protocols);
    Ok((config, certificate))
}

/// Returns the configuration of a client that trusts this certificate alone.
pub(crate) fn client(
    certificate: &CertificateDer<'static>,
    protocol: &str,
) -> Result<Arc<ClientConfig>, BoxError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = wire_names(&[protocol]);
    Ok(Arc::new(config))
}

fn wire_names(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect()
}
