//! An axum server that stops at SIGTERM without losing a response, or a task of a request that was answered.
//!
//! Start it with `cargo run --example shutdown_axum -- 3000`, make some requests, and send SIGTERM with `kill`.

use std::{
    error::Error,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::State, routing::get};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor};

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
    let app = Router::new()
        .route("/", get(handler))
        .with_state(Arc::clone(&counts))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));

    // First the server ends. It takes no more requests, and answers those that it has. Then their tasks end.
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = terminate.recv().await;
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

async fn handler(tasks: BackgroundTasks, State(counts): State<Arc<Counts>>) -> &'static str {
    counts.handled.fetch_add(1, Relaxed);
    let counting = Arc::clone(&counts);
    let added = tasks.try_add(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        counting.tasks_done.fetch_add(1, Relaxed);
    });
    counts
        .tasks_added
        .fetch_add(u64::from(added.is_ok()), Relaxed);
    "done, and more to do\n"
}
