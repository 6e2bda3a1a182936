//! A worker in a process of its own, for jobs in a file of SQLite's. It runs until Ctrl-C or SIGTERM, and then ends
//! what it has begun.
//!
//! `cargo run --example queue_worker_sqlite --features sqlite -- mails.db`, with a file of `queue_sqlite`. More arguments:
//! after how many seconds of silence a worker counts as dead (60), how many milliseconds a job takes (0), the queue ("mails").

use std::{env, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tower_background::{BoxError, Job, JobQueue, SqliteStore};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = env::args().skip(1);
    let file = arguments.next().ok_or("which file?")?;
    let dead_after = Duration::from_secs(arguments.next().map_or(Ok(60), |seconds| seconds.parse())?);
    let takes = Duration::from_millis(arguments.next().map_or(Ok(0), |millis| millis.parse())?);
    let name = arguments.next().unwrap_or_else(|| "mails".to_owned());

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };

    let store = SqliteStore::open(file).await?;
    let queue: JobQueue<_, String> = store.queue(name);
    let work = move |job: Job<String>| async move {
        println!("begun {} {} {}", job.id(), job.attempt(), job.args());
        tokio::time::sleep(takes).await;
        println!("done {} {} {}", job.id(), job.attempt(), job.args());
    };
    println!("working");
    queue.worker("mailer").dead_after(dead_after).run(work, stop).await;
    println!("stopped");
    Ok(())
}
