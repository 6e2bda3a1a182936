//! hyper-util's `auto` server: HTTP/1.1 and HTTP/2 with prior knowledge, and upgrades.

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use super::Running;
use crate::{app::App, target::Target};

pub(super) async fn serve(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    serve_router(app.layered(), stop).await
}

pub(super) async fn serve_router(
    router: Router,
    stop: CancellationToken,
) -> Result<Running, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = Target::Tcp(listener.local_addr()?);
    Ok(Running::new(target, async move {
        let graceful = GracefulShutdown::new();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // For WebSockets over HTTP/2.
        builder.http2().enable_connect_protocol();
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted?.0,
                () = stop.cancelled() => break,
            };
            stream.set_nodelay(true)?;
            let service = TowerToHyperService::new(router.clone());
            let connection = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .into_owned();
            let connection = graceful.watch(connection);
            // How a connection ends is for its client to see.
            connections.spawn(async { drop(connection.await) });
        }
        drop(listener);
        graceful.shutdown().await;
        Ok(())
    }))
}
