//! The same program on both engines: one line differs.
//!
//! `cargo run -p tower-background-jobs --example either_database --all-features` uses SQLite. Set
//! `DATABASE_URL` to a PostgreSQL database to use that.

use std::{sync::Arc, time::Duration};

use tower_background_jobs::{
    Backoff, BoxError, JobContext, JobError, JobQueue, PgmqEngine, PushOptions, SqliteEngine,
    engines::Engine,
};

async fn count(letters: String, cx: JobContext) -> Result<(), JobError> {
    if letters == "abc" && cx.attempt() == 1 {
        return Err("the first attempt fails".into());
    }
    println!(
        "attempt {}: {letters} has {} letters",
        cx.attempt(),
        letters.len()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    let engine: Arc<dyn Engine> = match std::env::var("DATABASE_URL") {
        Ok(url) => {
            let engine = PgmqEngine::connect(&url)?;
            engine.install().await?;
            Arc::new(engine)
        }
        Err(_) => Arc::new(SqliteEngine::open(folder.path().join("jobs.db")).await?),
    };
    // From here on nothing depends on the database.
    let queue: JobQueue<String> = JobQueue::open_shared(engine, "letters").await?;
    let soon = Backoff::new(Duration::from_millis(100), Duration::from_mins(1));
    let worker = queue.worker(count).backoff(soon).start();
    queue.push(&"abc".to_owned()).await?;
    let later = PushOptions::new().delay(Duration::from_millis(500));
    queue.push_with(&"abcdef".to_owned(), later).await?;
    while worker.counts().done < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let counts = worker.stop(Duration::from_secs(10)).await;
    println!("done: {}, failed: {}", counts.done, counts.failed);
    Ok(())
}
