//! A service with a background task, limits, a graceful shutdown and a page for Prometheus.
//!
//! Start it with `cargo run --example service --features metrics`.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, Supervisor, Task, When, describe_metrics,
};

async fn sign_up(tasks: BackgroundTasks, address: String) -> StatusCode {
    tasks.add(
        Task::new(send_mail(address))
            .named("welcome-mail")
            .timeout(Duration::from_secs(5))
            .when(When::Success),
    );
    StatusCode::CREATED
}

async fn send_mail(address: String) -> Result<(), BoxError> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("a mail went to {address}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let prometheus = PrometheusBuilder::new()
        .set_buckets(&[0.01, 0.1, 1.0, 10.0])?
        .install_recorder()?;
    describe_metrics();

    let supervisor = Supervisor::builder()
        .max_concurrent(256) // the rest waits, first come, first served
        .max_blocking(16) // a limit for `Task::blocking`
        .max_pending(10_000) // then the service is not ready, so tower applies backpressure
        .task_timeout(Duration::from_secs(60))
        .start_within(Duration::from_secs(30)) // for streams that never end
        .build();
    let app = Router::new()
        .route("/sign-up", post(sign_up))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .route("/metrics", get(async move || prometheus.render()));

    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop())
        .await?;

    // The server has stopped. Tasks of its last responses may still run.
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    println!("{report}");
    Ok(())
}

/// Waits for Ctrl-C, or for SIGTERM, which `kill`, systemd and Kubernetes send.
async fn stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
