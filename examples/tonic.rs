//! A gRPC service that adds tasks. One call succeeds, and one fails.
//!
//! `cargo run --example tonic --features tonic` starts a server, calls it twice, and prints what
//! happened and when. Then it serves until Ctrl-C. With `--once` it stops after its own calls. The
//! service is the standard health check, whose generated code `tonic-health` contains.

use std::{
    env,
    fmt::Display,
    net::SocketAddr,
    process,
    sync::LazyLock,
    time::{Duration, Instant},
};

use tokio::signal;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower_background::{BackgroundLayer, BackgroundTasksExt, BoxError, Supervisor, Task, When};

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Prints what happens, with the time since the start.
fn tell(what: impl Display) {
    println!("{:>9.3} ms  {what}", STARTED.elapsed().as_secs_f64() * 1e3);
}

/// Knows only the service `mail`.
struct Probe;

#[tonic::async_trait]
impl Health for Probe {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let tasks = request.background_tasks()?;
        let service = request.into_inner().service;

        let audit = Task::with_context(|cx| async move {
            if let Some(end) = cx.end() {
                tell(format!(
                    "audit:   {} was {:?} with gRPC status {:?}",
                    end.path(),
                    end.kind(),
                    end.grpc_status()
                ));
            }
        });
        tasks.add(audit.named("audit"));

        let refresh = async {
            tell("refresh: starts");
            tokio::time::sleep(Duration::from_millis(200)).await;
            tell("refresh: ends");
        };
        tasks.add(Task::new(refresh).named("refresh").when(When::Success));

        tell(format!(
            "service: adds two tasks and answers for {service:?}"
        ));
        if service != "mail" {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with `Check`"))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let once = env::args().any(|argument| argument == "--once");
    let supervisor = Supervisor::new();

    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let visit = Box::pin(visit(incoming.local_addr()?, supervisor.clone(), once));
    Server::builder()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(Probe))
        .serve_with_incoming_shutdown(incoming, visit)
        .await?;

    // The server has stopped. Tasks of its last responses may still run.
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    println!("{report}");
    Ok(())
}

/// Calls the server, and then waits for Ctrl-C.
async fn visit(server: SocketAddr, supervisor: Supervisor, once: bool) {
    if let Err(error) = call(server).await {
        eprintln!("the call failed: {error}");
        process::exit(1);
    }
    supervisor.idle().await;
    println!("\ntasks: {}", supervisor.stats());

    if !once {
        println!("\nNow it is your turn, until Ctrl-C:\n");
        println!(
            "    grpcurl -plaintext -proto health.proto -d '{{\"service\":\"mail\"}}' {server} grpc.health.v1.Health/Check\n"
        );
        signal::ctrl_c().await.expect("Ctrl-C can be listened for");
    }
}

async fn call(server: SocketAddr) -> Result<(), BoxError> {
    let mut client = HealthClient::new(
        Channel::from_shared(format!("http://{server}"))?
            .connect()
            .await?,
    );
    for service in ["mail", "fax"] {
        tell(format!("client:  asks for {service:?}"));
        let code = match client
            .check(HealthCheckRequest {
                service: service.to_owned(),
            })
            .await
        {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        };
        tell(format!("client:  has the answer for {service:?}: {code:?}"));
    }
    Ok(())
}
