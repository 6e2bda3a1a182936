//! A web service that sends a welcome mail after a sign-up, in a way that survives a crash.
//!
//! `cargo run -p tower-background-jobs --example web_service --features sqlite`, and then
//! `curl -d ada@example.org http://127.0.0.1:3000/sign-up`. Kill it with `kill -9` when `curl` has its
//! answer, and start it again: no mail is lost.
//!
//! With `-- --once` it signs up one user by itself, and ends.

use std::{net::Ipv4Addr, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use tower_background::{BackgroundLayer, BackgroundTasks};
use tower_background_jobs::{BoxError, JobContext, JobError, JobQueue, SqliteEngine};

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}

async fn send(mail: Mail, cx: JobContext) -> Result<(), JobError> {
    // A job can run twice, if the process dies after this line. Its id is the same each time.
    println!(
        "job {}, attempt {}: a mail goes to {}",
        cx.id(),
        cx.attempt(),
        mail.to
    );
    Ok(())
}

/// Written before the answer. The mail is sent if the answer is a success.
async fn sign_up(
    mails: State<JobQueue<Mail>>,
    tasks: BackgroundTasks,
    address: String,
) -> Result<StatusCode, StatusCode> {
    let held = mails
        .hold(Duration::from_mins(1))
        .push(&Mail { to: address })
        .await;
    tasks.add(
        held.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?
            .into_task(),
    );
    Ok(StatusCode::ACCEPTED)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init();
    let once = std::env::args().any(|argument| argument == "--once");

    // On PostgreSQL: `PgmqEngine::connect("postgres://localhost/shop")?`, and `install()` once.
    let engine = SqliteEngine::open(std::env::temp_dir().join("web_service.db")).await?;
    let mails: JobQueue<Mail> = JobQueue::open(engine, "mails").await?;
    let worker = mails.worker(send).concurrency(4).start();

    let app = Router::new()
        .route("/sign-up", post(sign_up))
        .with_state(mails)
        .layer(BackgroundLayer::new());
    let port = if once { 0 } else { 3000 };
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let address = listener.local_addr()?;
    let server = axum::serve(listener, app);
    tokio::select! {
        ended = async { server.await } => ended?,
        _ = tokio::signal::ctrl_c() => {}
        sent = sign_up_once(address, &worker), if once => sent?,
    }
    let counts = worker.stop(Duration::from_secs(10)).await;
    println!("done: {}, failed: {}", counts.done, counts.failed);
    Ok(())
}

async fn sign_up_once(
    address: std::net::SocketAddr,
    worker: &tower_background_jobs::RunningWorker,
) -> Result<(), BoxError> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut client = tokio::net::TcpStream::connect(address).await?;
    let request = "POST /sign-up HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-length: 15\r\n\r\nada@example.org";
    client.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    client.read_to_string(&mut response).await?;
    println!("{}", response.lines().next().unwrap_or_default());
    while worker.counts().done == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
