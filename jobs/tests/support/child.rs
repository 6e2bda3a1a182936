//! A program for the tests that kill processes. It is a web server, or a worker.
//!
//! `child serve DATABASE FILE` prints its port. `child work DATABASE FILE` runs jobs. Both note in
//! the file what they did. `DATABASE` is the URL of a PostgreSQL database, or the path of a SQLite
//! file.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor, Task};
use tower_background_jobs::{
    Backoff, BoxError, JobContext, JobError, JobQueue, PgmqEngine, SqliteEngine, engines::Engine,
};

#[derive(Clone, Serialize, Deserialize)]
struct Job {
    id: u64,
    milliseconds: u64,
    abort: bool,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", database, file] => serve(open(database).await?, notes(file)?).await,
        ["work", database, file] => work(open(database).await?, notes(file)?).await,
        _ => Err("usage: child serve|work DATABASE FILE".into()),
    }
}

async fn open(database: &str) -> Result<JobQueue<Job>, BoxError> {
    let engine: Arc<dyn Engine> = if database.starts_with("postgres:") {
        Arc::new(PgmqEngine::connect(database)?)
    } else {
        Arc::new(SqliteEngine::open(database).await?)
    };
    Ok(JobQueue::open_shared(engine, "child").await?)
}

fn notes(path: &str) -> std::io::Result<Arc<File>> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok(Arc::new(file))
}

/// What the handlers use.
#[derive(Clone)]
struct Service {
    queue: JobQueue<Job>,
    file: Arc<File>,
}

async fn serve(queue: JobQueue<Job>, file: Arc<File>) -> Result<(), BoxError> {
    let supervisor = Supervisor::builder()
        .abort_after(Duration::from_secs(5))
        .build();
    let app = Router::new()
        .route("/durable", post(durable))
        .route("/held", post(held))
        .route("/fallback", post(fallback))
        .with_state(Service { queue, file })
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let mut terminate = signal(SignalKind::terminate())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await?;
    supervisor.shutdown(Duration::from_millis(100)).await;
    Ok(())
}

fn job(body: &str) -> Result<Job, StatusCode> {
    let id = body.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(Job {
        id,
        milliseconds: id % 7,
        abort: false,
    })
}

async fn durable(service: State<Service>, body: String) -> Result<StatusCode, StatusCode> {
    let pushed = service.queue.push(&job(&body)?).await;
    pushed.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(StatusCode::ACCEPTED)
}

async fn held(
    service: State<Service>,
    tasks: BackgroundTasks,
    body: String,
) -> Result<StatusCode, StatusCode> {
    let grace = Duration::from_secs(2);
    let pushed = service.queue.hold(grace).push(&job(&body)?).await;
    let held = pushed.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    tasks.add(held.into_task());
    Ok(StatusCode::ACCEPTED)
}

/// The task does the work, and pushes it only if the server stops before that.
async fn fallback(
    State(Service { queue, file }): State<Service>,
    tasks: BackgroundTasks,
    body: String,
) -> Result<StatusCode, StatusCode> {
    let job = job(&body)?;
    let later = job.clone();
    let work = async move {
        tokio::time::sleep(Duration::from_millis(job.id % 7 * 50)).await;
        note(&file, &format!("task {}", job.id))
    };
    let push = async move { queue.push(&later).await.map(drop) };
    tasks.add(Task::new(work).shutdown_fallback(push));
    Ok(StatusCode::ACCEPTED)
}

/// One write: other processes append to the file too.
fn note(mut file: &File, line: &str) -> std::io::Result<()> {
    file.write_all(format!("{line}\n").as_bytes())
}

async fn work(queue: JobQueue<Job>, file: Arc<File>) -> Result<(), BoxError> {
    let handler = move |job: Job, cx: JobContext| run(job, cx, Arc::clone(&file));
    let worker = queue
        .worker(handler)
        .invisible(Duration::from_millis(1_500))
        .max_attempts(6)
        .backoff(Backoff::new(
            Duration::from_millis(100),
            Duration::from_secs(1),
        ));
    let _worker = worker.start();
    std::future::pending().await
}

async fn run(job: Job, cx: JobContext, file: Arc<File>) -> Result<(), JobError> {
    note(&file, &format!("start {} {}", job.id, cx.attempt()))?;
    tokio::time::sleep(Duration::from_millis(job.milliseconds)).await;
    if job.abort {
        std::process::abort();
    }
    note(&file, &format!("done {}", job.id))?;
    Ok(())
}
