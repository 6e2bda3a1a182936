//! axum-server with rustls.

use std::{net::TcpListener, sync::Arc};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use super::Running;
use crate::{app::App, target::Target, tls};

pub(super) async fn serve(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    let (config, certificate) = tls::server(&["h2", "http/1.1"])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let target = Target::Tls(listener.local_addr()?, certificate);
    let handle = Handle::new();
    let config = RustlsConfig::from_config(Arc::new(config));
    let mut server = axum_server::from_tcp_rustls(listener, config)?.handle(handle.clone());
    // For WebSockets over HTTP/2.
    server.http_builder().http2().enable_connect_protocol();
    tokio::spawn(async move {
        stop.cancelled().await;
        // Without a time of its own, the server waits for all connections.
        handle.graceful_shutdown(None);
    });
    Ok(Running::new(target, async move {
        server.serve(app.layered().into_make_service()).await?;
        Ok(())
    }))
}
