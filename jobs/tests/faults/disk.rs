//! What happens to a SQLite file.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use sqlx::{Connection, SqliteConnection};
use tower_background_jobs::{Error, JobQueue, SqliteEngine};

use crate::support::{Database, eventually};

#[tokio::test]
async fn an_error_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("jobs.db");
    let error = SqliteEngine::open(&path).await.unwrap_err();
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    let no_database = folder.path().join("text");
    std::fs::write(&no_database, "this is a text and no database, ".repeat(100)).unwrap();
    let error = SqliteEngine::open(&no_database).await.unwrap_err();
    assert!(error.to_string().contains("text"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_deleted_is_noticed_at_the_next_push() {
    let database = Database::sqlite();
    let queue: JobQueue<u8> = database.queue("deleted").await;
    queue.push(&1).await.unwrap();
    std::fs::remove_file(database.path()).unwrap();
    let pushed = queue.push(&2).await;
    assert!(
        matches!(pushed, Err(Error::FileReplaced { .. })),
        "{pushed:?}"
    );
    let pushed = queue.push(&3).await;
    assert!(
        matches!(pushed, Err(Error::Open { .. })),
        "it is not created again: {pushed:?}"
    );
    // Somebody creates it again: a restart of another process, say.
    let other: JobQueue<u8> = database.queue("deleted").await;
    queue.push(&4).await.unwrap();
    let jobs = other.list_queued(0, 10).await.unwrap();
    assert_eq!(
        jobs.iter().map(|job| job.body.as_str()).collect::<Vec<_>>(),
        ["4"]
    );
    assert_eq!(
        queue.list_queued(0, 10).await.unwrap().len(),
        1,
        "readers see the new file"
    );
}

#[tokio::test]
async fn a_file_that_is_replaced_is_noticed_at_the_next_push() {
    let database = Database::sqlite();
    let queue: JobQueue<u8> = database.queue("replaced").await;
    for _ in 0..5 {
        queue.push(&1).await.unwrap();
        std::fs::remove_file(database.path()).unwrap();
        let _other: JobQueue<u8> = database.queue("replaced").await;
        let pushed = queue.push(&2).await;
        assert!(
            matches!(pushed, Err(Error::FileReplaced { .. })),
            "{pushed:?}"
        );
    }
}

/// Nobody pushes over the engine of this worker, so only its reads can notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_finds_the_jobs_of_a_file_that_was_created_again() {
    let database = Database::sqlite();
    let queue: JobQueue<u8> = database.queue("again").await;
    queue.push(&1).await.unwrap();
    let worker = queue.worker(|_, _| async { Ok(()) }).start();
    eventually("the first is done", async || {
        let counts = worker.counts();
        (counts.done, counts.running) == (1, 0)
    })
    .await;
    std::fs::remove_file(database.path()).unwrap();
    let listed = queue.list_queued(0, 10).await;
    assert!(
        matches!(listed, Err(Error::FileReplaced { .. })),
        "{listed:?}"
    );
    let other: JobQueue<u8> = database.queue("again").await;
    other.push(&2).await.unwrap();
    eventually("the second is done", async || worker.counts().done == 2).await;
}

/// Another process holds the lock for longer than the bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_database_ends_pushes_in_their_time() {
    let database = Database::sqlite();
    let bound = Duration::from_secs(1);
    let engine = SqliteEngine::open_with(database.path(), bound)
        .await
        .unwrap();
    let queue: JobQueue<u32> = JobQueue::open(engine, "locked").await.unwrap().bound(bound);
    let worker = queue.worker(|_, _| async { Ok(()) }).start();
    queue.push(&0).await.unwrap();
    let url = format!("sqlite://{}", database.path().display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    eventually("it is locked", async || {
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut other)
            .await
            .is_ok()
    })
    .await;
    let seconds = if std::env::var_os("TOWER_BACKGROUND_FULL").is_some() {
        30
    } else {
        3
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let pushes = (0..20).map(|number| {
            let queue = queue.clone();
            tokio::spawn(async move {
                let begun = Instant::now();
                queue.push(&number).await.unwrap_err();
                assert!(
                    begun.elapsed() < Duration::from_millis(1_500),
                    "{:?}",
                    begun.elapsed()
                );
            })
        });
        for push in pushes.collect::<Vec<_>>() {
            push.await.unwrap();
        }
    }
    let before = worker.counts().done;
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    eventually("a push works", async || queue.push(&1).await.is_ok()).await;
    eventually("the worker works", async || worker.counts().done > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_create_a_file_at_once() {
    let database = Database::sqlite();
    let opens: Vec<_> = (0..8)
        .map(|_| {
            let path = database.path();
            tokio::spawn(async move {
                let engine = SqliteEngine::open(path).await.unwrap();
                let queue: JobQueue<u8> = JobQueue::open(engine, "created").await.unwrap();
                queue.push(&1).await.unwrap();
            })
        })
        .collect();
    for open in opens {
        open.await.unwrap();
    }
    let queue: JobQueue<u8> = database.queue("created").await;
    assert_eq!(queue.depth().await.unwrap().ready, 8);
}

/// SQLite itself does not wait here: its busy handler is not called when a file that is read is to
/// become a WAL file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_waits_for_a_process_that_writes_to_a_new_file() {
    let database = Database::sqlite();
    let url = format!("sqlite://{}?mode=rwc", database.path().display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let short = Duration::from_millis(100);
    let error = SqliteEngine::open_with(database.path(), short)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");

    let mut open = tokio::spawn(SqliteEngine::open(database.path()));
    let early = tokio::time::timeout(short, &mut open).await;
    assert!(early.is_err(), "it did not wait: {early:?}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    open.await.unwrap().unwrap();
}

/// Needs the right to mount a file system.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a small file system can not be mounted");
        return;
    }
    let _unmount = Unmount(folder.path().to_owned());
    let engine = SqliteEngine::open(folder.path().join("jobs.db"))
        .await
        .unwrap();
    let queue: JobQueue<String> = JobQueue::open(engine, "full").await.unwrap();
    let job = "x".repeat(4_000);
    let mut pushed = Vec::new();
    let error = loop {
        match queue.push(&job).await {
            Ok(id) => pushed.push(id),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("full"), "{error}");
    let jobs = queue.list_queued(0, 10_000).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), pushed);
    Command::new("mount")
        .args(["-o", "remount,size=30m"])
        .arg(folder.path())
        .status()
        .unwrap();
    queue.push(&job).await.unwrap();
    let worker = queue.worker(|_, _| async { Ok(()) }).start();
    let all = pushed.len() as u64 + 1;
    eventually("all are done", async || worker.counts().done == all).await;
    worker.stop(Duration::from_secs(5)).await;
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
