//! An axum server that stops at SIGTERM without losing a response, or a task of a request that was
//! answered.
//!
//! Start it with `cargo run --example shutdown_axum -- 3000`, make some requests, and send SIGTERM
//! with `kill`. Each request prints a line, and so does its task.

use std::{error::Error, process::ExitCode, time::Duration};

use axum::{Router, routing::get};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor};

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
    let app = Router::new()
        .route("/", get(handler))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));

    // 1. The signal ends endless streams: they wait for `stopping`.
    let (stop, stopping) = (supervisor.clone(), supervisor.stopping());
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
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

async fn handler(tasks: BackgroundTasks) -> &'static str {
    println!("request");
    tasks.add(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        println!("task");
    });
    "done, and more to do\n"
}
