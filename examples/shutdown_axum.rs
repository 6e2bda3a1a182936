//! A server of axum's that stops at SIGTERM and loses nothing: no answer, and no task that an answered request has left.
//!
//! `cargo run --example shutdown_axum --features axum -- 3000`, then requests to it, then `kill`.

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
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    // Before anybody knows the address, so that no signal comes too early to be caught.
    let mut terminate = signal(SignalKind::terminate())?;
    println!("{}", listener.local_addr()?);

    let supervisor = Supervisor::new();
    let counts = Arc::<Counts>::default();
    let app =
        Router::new().route("/", get(handler)).with_state(Arc::clone(&counts)).layer(BackgroundLayer::with(supervisor.clone()));

    // First the server, which takes no more requests and answers those that it has; then their tasks.
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = terminate.recv().await;
        })
        .await?;
    let report = supervisor.shutdown(Duration::from_secs(10)).await;

    println!("{report:?}");
    let (added, done) = (counts.tasks_added.load(Relaxed), counts.tasks_done.load(Relaxed));
    println!("handled={} tasks_added={added} tasks_done={done}", counts.handled.load(Relaxed));
    Ok(if report.is_clean() && added == done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn handler(tasks: BackgroundTasks, State(counts): State<Arc<Counts>>) -> &'static str {
    counts.handled.fetch_add(1, Relaxed);
    let counting = Arc::clone(&counts);
    let added = tasks.add(async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        counting.tasks_done.fetch_add(1, Relaxed);
    });
    counts.tasks_added.fetch_add(u64::from(added), Relaxed);
    "done, and more to do\n"
}
