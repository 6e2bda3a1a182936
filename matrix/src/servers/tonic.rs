//! tonic: gRPC, and gRPC-Web with the layer of tonic-web outside or inside `BackgroundLayer`.

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_web::GrpcWebLayer;
use tower_background::BoxError;

use super::Running;
use crate::{app::App, target::Target};

async fn listen() -> Result<(Target, TcpIncoming), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let target = Target::Tcp(listener.local_addr()?);
    Ok((target, TcpIncoming::from(listener).with_nodelay(Some(true))))
}

pub(super) async fn grpc(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    let (target, incoming) = listen().await?;
    let server = Server::builder()
        .layer(app.layer())
        .add_routes(Routes::from(app.router()));
    Ok(Running::new(target, async {
        let stop = stop.cancelled_owned();
        Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
    }))
}

pub(super) async fn web_outside(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    let (target, incoming) = listen().await?;
    let server = Server::builder()
        .accept_http1(true)
        .layer(GrpcWebLayer::new())
        .layer(app.layer())
        .add_routes(Routes::from(app.router()));
    Ok(Running::new(target, async {
        let stop = stop.cancelled_owned();
        Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
    }))
}

pub(super) async fn web_inside(app: App, stop: CancellationToken) -> Result<Running, BoxError> {
    let (target, incoming) = listen().await?;
    let server = Server::builder()
        .accept_http1(true)
        .layer(app.layer())
        .layer(GrpcWebLayer::new())
        .add_routes(Routes::from(app.router()));
    Ok(Running::new(target, async {
        let stop = stop.cancelled_owned();
        Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
    }))
}
