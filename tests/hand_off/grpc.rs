//! A gRPC client gets `UNAVAILABLE` where its job was not written.

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_client::HealthClient, health_server::Health, health_server::HealthServer,
};
use tower_background::{BackgroundLayer, BackgroundTasksExt, HandOff, HandOffError, Supervisor};

use crate::{
    support::soon,
    table::{Event, Table},
};

struct Checks(HandOff<&'static str>);

#[tonic::async_trait]
impl Health for Checks {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        request.background_tasks()?.add(self.0.job("check"));
        Ok(Response::new(HealthCheckResponse::default()))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nothing to watch"))
    }
}

#[tokio::test]
async fn a_call_fails_as_unavailable() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let layer = BackgroundLayer::with(supervisor.clone())
        .hand_off(|error: HandOffError| Status::unavailable(error.to_string()).into_http());
    let server = tonic::transport::Server::builder().layer(layer).add_service(HealthServer::new(Checks(table.durable())));
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let channel = Channel::from_shared(format!("http://{address}")).expect("it is an address");
    let mut client = HealthClient::new(soon(channel.connect()).await.expect("the server listens"));
    soon(client.check(HealthCheckRequest::default())).await.expect("the table has room");
    assert_eq!((table.next().await, table.next().await), (Event::Begun("check"), Event::Written("check")));

    table.fail();
    let status = soon(client.check(HealthCheckRequest::default())).await.expect_err("the table has none");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "a job was not handed off: its destination failed");
    soon(supervisor.idle()).await;
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().failed), (1, 1));
    serving.abort();
}
