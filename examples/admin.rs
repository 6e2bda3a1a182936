//! An admin route that answers statistics and tasks as JSON.
//!
//! `cargo run --example admin --features serde -- 127.0.0.1:3000` serves until Ctrl-C.
//!
//! Protect such a route, because paths and names of tasks tell a stranger what your users do. This
//! example serves the route on a separate address, which only this machine can reach. Behind a
//! proxy that is not enough, so ask for a password there.

use std::{env, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, signal};
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Supervisor, Task};

async fn work(tasks: BackgroundTasks) -> StatusCode {
    tasks.add(Task::with_context(async |cx| cx.cancelled().await).named("long-work"));
    StatusCode::ACCEPTED
}

/// The list of all tasks is long on a busy server, so this takes the oldest.
async fn tasks(State(supervisor): State<Supervisor>) -> Json<Value> {
    let tasks = supervisor.tasks();
    let oldest = &tasks[..tasks.len().min(100)];
    Json(json!({ "stats": supervisor.stats(), "tasks": oldest }))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let address = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let supervisor = Supervisor::builder()
        .abort_after(Duration::from_secs(1))
        .build();
    let app = Router::new()
        .route("/work", post(work))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let admin = Router::new()
        .route("/tasks", get(tasks))
        .with_state(supervisor.clone());

    let (listener, admin_listener) = (
        TcpListener::bind(address).await?,
        TcpListener::bind("127.0.0.1:0").await?,
    );
    println!("http://{}/work", listener.local_addr()?);
    println!("http://{}/tasks", admin_listener.local_addr()?);
    let admin = tokio::spawn(async { axum::serve(admin_listener, admin).await });
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = signal::ctrl_c().await;
        })
        .await?;
    let report = supervisor.shutdown(Duration::from_secs(5)).await;
    println!("{}", serde_json::to_string(&report)?);
    admin.abort();
    Ok(())
}
