//! A page with the metrics of tasks for Prometheus.
//!
//! Start it with `cargo run --example metrics --features metrics -- 3000`, and then request `/` and
//! `/metrics`. With `--once` instead of a port it makes some requests itself, prints the page and
//! ends.

use std::{error::Error, time::Duration};

use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor, Task, describe_metrics};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let buckets = [0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0];
    let prometheus = PrometheusBuilder::new()
        .set_buckets(&buckets)?
        .install_recorder()?;
    describe_metrics();
    // The recorder keeps all values of a histogram until somebody requests the page. This keeps
    // them small if nobody does.
    let upkeep = prometheus.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });

    let supervisor = Supervisor::new();
    let app = Router::new()
        .route("/", get(handler))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .route("/metrics", get(async move || prometheus.render()));

    let argument = std::env::args().nth(1).unwrap_or_default();
    let once = argument == "--once";
    let port = if once || argument.is_empty() {
        0
    } else {
        argument.parse()?
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = async { axum::serve(listener, app).await };
    if !once {
        println!("{address}/metrics");
        return Ok(server.await?);
    }
    tokio::select! {
        stopped = server => Ok(stopped?),
        page = call(&address, &supervisor) => {
            print!("{}", page?);
            Ok(())
        }
    }
}

async fn handler(tasks: BackgroundTasks) -> &'static str {
    tasks.add(
        Task::new(async { tokio::time::sleep(Duration::from_millis(20)).await })
            .named("welcome-mail"),
    );
    tasks.add(Task::new(async { Err("no such host") }).named("webhook"));
    "done, and more to do\n"
}

/// Makes some requests, waits for their tasks, and returns the page.
async fn call(address: &str, supervisor: &Supervisor) -> Result<String, Box<dyn Error>> {
    for _ in 0..3 {
        reqwest::get(address).await?.error_for_status()?;
    }
    supervisor.idle().await;
    Ok(reqwest::get(format!("{address}/metrics"))
        .await?
        .error_for_status()?
        .text()
        .await?)
}
