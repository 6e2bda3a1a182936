//! A hyper server that stops at SIGTERM without losing a response, or a task of a request that was answered.
//!
//! Start it with `cargo run --example shutdown_hyper -- 3000`, make some requests, and send SIGTERM with `kill`.

use std::{
    convert::Infallible,
    error::Error,
    future::ready,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

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
};
use tower::{ServiceBuilder, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

#[derive(Default)]
struct Counts {
    handled: AtomicU64,
    tasks_added: AtomicU64,
    tasks_done: AtomicU64,
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
    let counting = Arc::clone(&counts);
    let service = ServiceBuilder::new()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .service(service_fn(move |request| {
            ready(Ok::<_, Infallible>(handler(&request, &counting)))
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

    // First the connections end. They take no more requests, and answer those that they have. Then their tasks end.
    connections.shutdown().await;
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

fn handler(request: &Request<Incoming>, counts: &Arc<Counts>) -> Response<Full<Bytes>> {
    let tasks = request
        .background_tasks()
        .expect("the layer is around this service");
    counts.handled.fetch_add(1, Relaxed);
    let counting = Arc::clone(counts);
    let added = tasks.try_add(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        counting.tasks_done.fetch_add(1, Relaxed);
    });
    counts
        .tasks_added
        .fetch_add(u64::from(added.is_ok()), Relaxed);
    Response::new(Full::from("done, and more to do\n"))
}
