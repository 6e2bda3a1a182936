//! The worker process, and its account of what it has done, which has nothing to do with the queue's tables.

use std::{
    collections::HashMap,
    fs::{self, File},
    future::pending,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tower_background::{BoxError, Job, JobQueue, JobStore};

use crate::{
    engine::{Place, Store},
    process::end_with_parent,
};

pub const QUEUE: &str = "campaign";

/// A request's id, and whether its job stays with the worker in the first attempt.
pub type Payload = (usize, bool);

pub async fn run(place: &Place, folder: PathBuf) -> Result<(), BoxError> {
    end_with_parent();
    match Store::open(place).await? {
        Store::Sqlite(store) => work(store.queue(QUEUE), folder).await,
        Store::Postgres(store) => work(store.queue(QUEUE), folder).await,
    }
}

async fn work<S: JobStore>(queue: JobQueue<S, Payload>, folder: PathBuf) -> Result<(), BoxError> {
    // Another process may have had this number.
    let done = File::options().create(true).append(true).open(folder.join(format!("done-{}", std::process::id())))?;
    let done = Arc::new(done);
    println!("working");
    let handler = move |job: Job<Payload>| {
        let (id, is_stuck) = *job.args();
        let (begun, done) = (begun(&folder, id), Arc::clone(&done));
        async move {
            File::create(begun)?;
            if is_stuck && job.attempt() == 1 {
                println!("stuck {id}");
                pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            // One write, which is there if the process is killed after it.
            (&*done).write_all(format!("{id}\n").as_bytes())
        }
    };
    let worker = queue.worker("worker").poll(Duration::from_millis(20)).dead_after(Duration::from_secs(2));
    worker.run(handler, pending()).await;
    Ok(())
}

fn begun(folder: &Path, id: usize) -> PathBuf {
    folder.join("begun").join(id.to_string())
}

/// Whether a job of this request was ever begun.
pub fn has_begun(folder: &Path, id: usize) -> bool {
    begun(folder, id).exists()
}

/// How often each job was done.
pub fn done(folder: &Path) -> io::Result<HashMap<usize, usize>> {
    let mut done = HashMap::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("done-") {
            for line in fs::read_to_string(file.path())?.lines() {
                *done.entry(line.parse().map_err(io::Error::other)?).or_default() += 1;
            }
        }
    }
    Ok(done)
}
