//! A tonic server that stops at SIGTERM without losing a response, or a task of a request that was answered.
//!
//! Start it with `cargo run --example shutdown_tonic --features tonic -- 3000`, call `grpc.health.v1.Health/Check`,
//! and send SIGTERM with `kill`.

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

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

#[derive(Default)]
struct Counts {
    handled: AtomicU64,
    tasks_added: AtomicU64,
    tasks_done: AtomicU64,
}

struct Service {
    counts: Arc<Counts>,
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.counts.handled.fetch_add(1, Relaxed);
        let counting = Arc::clone(&self.counts);
        let added = request.background_tasks()?.try_add(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counting.tasks_done.fetch_add(1, Relaxed);
        });
        self.counts
            .tasks_added
            .fetch_add(u64::from(added.is_ok()), Relaxed);
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// Streams the status: it serves until the process stops. The stream ends then, so that the server can end.
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
    let counts = Arc::<Counts>::default();

    let stopping = supervisor.clone();
    // The signal ends the streams. First the server ends. It takes no more requests, and answers those that it has. Then their tasks end.
    Server::builder()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(Service {
            counts: Arc::clone(&counts),
        }))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            let _ = terminate.recv().await;
            stopping.begin_shutdown();
        })
        .await?;
    let report = supervisor.shutdown(Duration::from_secs(10)).await;

    println!("{report}");
    let (added, done) = (
        counts.tasks_added.load(Relaxed),
        counts.tasks_done.load(Relaxed),
    );
    println!(
        "handled={} tasks_added={added} tasks_done={done}",
        counts.handled.load(Relaxed)
    );
    Ok(if report.is_clean() && added == done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
