//! A program for the tests that kill processes. It is a web server, or a worker.
//!
//! `child serve DATABASE` prints its port. `child work DATABASE FILE` notes the starts and ends of
//! jobs in a file. `DATABASE` is the URL of a PostgreSQL database, or the path of a SQLite file.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use tower_background::{BackgroundLayer, BackgroundTasks};
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
        ["serve", database] => serve(open(database).await?).await,
        ["work", database, file] => work(open(database).await?, file).await,
        _ => Err("usage: child serve DATABASE | child work DATABASE FILE".into()),
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

async fn serve(queue: JobQueue<Job>) -> Result<(), BoxError> {
    let app = Router::new()
        .route("/durable", post(durable))
        .route("/held", post(held))
        .with_state(queue)
        .layer(BackgroundLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    Ok(axum::serve(listener, app).await?)
}

fn job(body: &str) -> Result<Job, StatusCode> {
    let id = body.parse().map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(Job {
        id,
        milliseconds: id % 7,
        abort: false,
    })
}

async fn durable(queue: State<JobQueue<Job>>, body: String) -> Result<StatusCode, StatusCode> {
    queue
        .push(&job(&body)?)
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(StatusCode::ACCEPTED)
}

async fn held(
    queue: State<JobQueue<Job>>,
    tasks: BackgroundTasks,
    body: String,
) -> Result<StatusCode, StatusCode> {
    let held = queue.hold(Duration::from_secs(2)).push(&job(&body)?).await;
    tasks.add(
        held.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?
            .into_task(),
    );
    Ok(StatusCode::ACCEPTED)
}

async fn work(queue: JobQueue<Job>, path: &str) -> Result<(), BoxError> {
    let file = Arc::new(OpenOptions::new().append(true).create(true).open(path)?);
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
    // One write each: other processes append to the file too.
    (&*file).write_all(format!("start {} {}\n", job.id, cx.attempt()).as_bytes())?;
    tokio::time::sleep(Duration::from_millis(job.milliseconds)).await;
    if job.abort {
        std::process::abort();
    }
    (&*file).write_all(format!("done {}\n", job.id).as_bytes())?;
    Ok(())
}
