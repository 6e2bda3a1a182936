//! A tonic server that stops at SIGTERM without losing a response, or a task of a request that was
//! answered.
//!
//! Start it with `cargo run --example shutdown_tonic --features tonic -- 3000`, call
//! `grpc.health.v1.Health/Check`, and send SIGTERM with `kill`. Each call prints a line, and so
//! does its task.

use std::{error::Error, process::ExitCode, time::Duration};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

const GRACE: Duration = Duration::from_secs(10);

struct Service;

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        println!("request");
        request.background_tasks()?.add(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            println!("task");
        });
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// Streams the status, which is "serving" until the process stops. The stream ends then, so
    /// that the server can end.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stopping = request.background_tasks()?.stopping();
        let status = |status: ServingStatus| {
            Ok(HealthCheckResponse {
                status: status.into(),
            })
        };
        let serving =
            stream::once(async move { status(ServingStatus::Serving) }).chain(stream::pending());
        let last = stream::once(async move { status(ServingStatus::NotServing) });
        Ok(Response::new(
            serving.take_until(stopping).chain(last).boxed(),
        ))
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    // Before the address is printed, so that no signal comes too early to be caught.
    let mut terminate = signal(SignalKind::terminate())?;
    println!("{}", listener.local_addr()?);

    let supervisor = Supervisor::new();
    // 1. The signal ends endless streams: they wait for `stopping`.
    let (stop, stopping) = (supervisor.clone(), supervisor.stopping());
    let serving = Server::builder()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(Service))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            let _ = terminate.recv().await;
            stop.begin_shutdown();
        });
    // 2. The server takes no more requests, and answers those that it has. A client that does not
    //    read would hold it up for ever, so this stops waiting after the grace.
    let late = async {
        stopping.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving => served?,
        () = late => {}
    }
    // 3. Then the tasks of the requests end.
    let report = supervisor.shutdown(GRACE).await;

    println!("{report}");
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
