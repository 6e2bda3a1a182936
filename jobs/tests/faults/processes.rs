//! Processes that are stopped, and that kill themselves.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;
use tower_background_jobs::JobQueue;

use crate::{
    on_both,
    process::{Notes, Process},
    support::{Database, eventually},
};

on_both! {
    /// One job aborts its process, and 15 others run beside it. All others are done.
    async fn a_poison_job_takes_no_neighbours_along(database) {
        let queue: JobQueue<Value> = database.queue("child").await;
        for id in 0..16 {
            let job = json!({ "id": id, "milliseconds": 300, "abort": id == 7 });
            queue.push(&job).await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let (file, place) = (folder.path().join("notes"), database.location());
        let work = || Process::start(&["work", &place, file.to_str().unwrap()]);
        let mut worker = work();
        let mut deaths = 0;
        eventually("one is archived, and all others are done", async || {
            if worker.has_ended() {
                deaths += 1;
                worker = work();
            }
            let depth = queue.depth().await.unwrap();
            (depth.ready + depth.invisible, depth.archived) == (0, 1)
        })
        .await;
        let done = Notes::read(&file).done;
        assert_eq!(done.len(), 15);
        assert!(!done.contains_key(&7));
        let archived = queue.list_archived(0, 10).await.unwrap();
        assert_eq!(archived[0].error(), Some("the process died 6 times while this job ran"));
        println!("{deaths} deaths");
    }
}

on_both! {
    /// What fails for all is no poison: the retries run beside each other.
    async fn ordinary_retries_do_not_run_alone(database) {
        let queue: JobQueue<u32> = database.queue("down").await;
        for number in 0..16 {
            queue.push(&number).await.unwrap();
        }
        let (down, most) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (is_down, highest) = (Arc::clone(&down), Arc::clone(&most));
        let now = Arc::new(AtomicU64::new(0));
        let worker = queue
            .worker(move |_, cx| {
                let (is_down, highest) = (Arc::clone(&is_down), Arc::clone(&highest));
                let now = Arc::clone(&now);
                async move {
                    let running = now.fetch_add(1, SeqCst) + 1;
                    if cx.attempt() > 4 {
                        highest.fetch_max(running, SeqCst);
                    }
                    sleep(Duration::from_millis(50)).await;
                    now.fetch_sub(1, SeqCst);
                    if is_down.load(SeqCst) { Err("the mail server is down".into()) } else { Ok(()) }
                }
            })
            .backoff(tower_background_jobs::Backoff::new(
                Duration::from_millis(20),
                Duration::from_millis(20),
            ))
            .start();
        eventually("late attempts run together", async || most.load(SeqCst) >= 8).await;
        down.store(false, SeqCst);
        eventually("all are done", async || worker.counts().done == 16).await;
    }
}

on_both! {
    /// A worker that is stopped by SIGSTOP loses its jobs, and its late ends are refused.
    async fn a_stopped_process_loses_its_jobs(database) {
        let queue: JobQueue<Value> = database.queue("child").await;
        let folder = tempfile::tempdir().unwrap();
        let (file, place) = (folder.path().join("notes"), database.location());
        let first = Process::start(&["work", &place, file.to_str().unwrap()]);
        for id in 0..4 {
            let job = json!({ "id": id, "milliseconds": 700, "abort": false });
            queue.push(&job).await.unwrap();
        }
        eventually("all run", async || Notes::read(&file).starts.len() == 4).await;
        first.signal("-STOP");
        let _second = Process::start(&["work", &place, file.to_str().unwrap()]);
        eventually("the second worker does them", async || {
            let depth = queue.depth().await.unwrap();
            depth.ready + depth.invisible == 0
        })
        .await;
        first.signal("-CONT");
        queue.push(&json!({ "id": 9, "milliseconds": 0, "abort": false })).await.unwrap();
        eventually("work goes on", async || Notes::read(&file).done.contains_key(&9)).await;
        let starts = Notes::read(&file).starts;
        assert!((0..4).all(|id| starts[&id] == 2), "{starts:?}");
        eventually("nothing is left", async || {
            queue.depth().await.unwrap() == tower_background_jobs::Depth::default()
        })
        .await;
    }
}

/// The clock of the machine jumps by 10 minutes while two workers live. What runs may run once more,
/// and the end of the first run is refused. (PostgreSQL's times are those of its server.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_costs_at_most_one_more_run() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !Path::new(library).exists() {
        let no_skip = std::env::var_os("TOWER_BACKGROUND_NO_SKIP").is_some();
        assert!(!no_skip, "faketime is not installed");
        return eprintln!("SKIPPED: faketime is not installed");
    }
    let database = Database::sqlite();
    let queue: JobQueue<Value> = database.queue("child").await;
    let folder = tempfile::tempdir().unwrap();
    let (file, place) = (folder.path().join("notes"), database.location());
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let variables = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let work = || Process::start_with(&["work", &place, file.to_str().unwrap()], &variables);
    let _workers = [work(), work()];
    for id in 0..8 {
        queue
            .push(&json!({ "id": id, "milliseconds": 3_000, "abort": false }))
            .await
            .unwrap();
    }
    eventually("all run", async || Notes::read(&file).starts.len() == 8).await;
    std::fs::write(&clock, "+600\n").unwrap();
    eventually("nothing is left", async || {
        queue.depth().await.unwrap() == tower_background_jobs::Depth::default()
    })
    .await;
    let Notes { starts, done, .. } = Notes::read(&file);
    println!("runs of each job: {starts:?}");
    assert_eq!(done.len(), 8);
    assert!(starts.values().all(|runs| *runs <= 2), "{starts:?}");
}
