//! A hyper server that stops at SIGTERM without losing a response, or a task of a request that was
//! answered.
//!
//! Start it with `cargo run --example shutdown_hyper -- 3000`, make some requests, and send SIGTERM
//! with `kill`. Each request prints a line, and so does its task.

use std::{convert::Infallible, error::Error, future::ready, process::ExitCode, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tower::{ServiceBuilder, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    // Before the address is printed, so that no signal comes too early to be caught.
    let mut terminate = signal(SignalKind::terminate())?;
    println!("{}", listener.local_addr()?);

    let supervisor = Supervisor::new();
    let service = ServiceBuilder::new()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .service(service_fn(|request| {
            ready(Ok::<_, Infallible>(handler(&request)))
        }));

    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => break,
        };
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(
            TokioIo::new(stream),
            TowerToHyperService::new(service.clone()),
        );
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
    drop(listener);

    // 1. Endless streams end: they wait for `stopping`.
    supervisor.begin_shutdown();
    // 2. The connections take no more requests, and answer those that they have. A client that does
    //    not read would hold one up for ever, so this stops waiting after the grace.
    let _ = timeout(GRACE, connections.shutdown()).await;
    // 3. Then the tasks of the requests end.
    let report = supervisor.shutdown(GRACE).await;

    println!("{report}");
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn handler(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    println!("request");
    let tasks = request
        .background_tasks()
        .expect("the layer is around this service");
    tasks.add(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        println!("task");
    });
    Response::new(Full::from("done, and more to do\n"))
}
