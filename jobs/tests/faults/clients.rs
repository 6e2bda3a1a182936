//! Clients that leave: their handlers are dropped at any point.

use std::{collections::HashSet, time::Duration};

use rand::Rng;
use tokio::time::timeout;
use tower_background_jobs::{Error, JobQueue, PushOptions};

use crate::{
    on_both,
    support::{Database, eventually},
};

on_both! {
    /// Whatever answered `Ok` is there. What was dropped is there at most once.
    async fn pushes_that_are_dropped_lose_nothing(database) {
        let queue: JobQueue<u32> = database.queue("dropped").await;
        let mut clients = Vec::new();
        for client in 0..20_u32 {
            let queue = queue.clone();
            clients.push(tokio::spawn(async move {
                let mut pushed = Vec::new();
                for number in 0..200 {
                    let number = client * 1_000 + number;
                    // From 4 µs to 65 ms: some pushes end in time on any machine, and some do not.
                    let limit = 4.0 * rand::rng().random_range(0.0..14.0_f64).exp2();
                    let limit = Duration::from_secs_f64(limit / 1e6);
                    if let Ok(id) = timeout(limit, queue.push(&number)).await {
                        pushed.push((id.unwrap(), number));
                    }
                }
                pushed
            }));
        }
        let mut pushed = Vec::new();
        for client in clients {
            pushed.extend(client.await.unwrap());
        }
        let jobs = queue.list_queued(0, 10_000).await.unwrap();
        let present: HashSet<(i64, u32)> =
            jobs.iter().map(|job| (job.id, job.body.parse().unwrap())).collect();
        assert!(pushed.len() > 100, "some must be in time: {}", pushed.len());
        assert!(pushed.len() < 4_000, "some must be dropped");
        for pushed in &pushed {
            assert!(present.contains(pushed), "{pushed:?} is lost");
        }
        let numbers: HashSet<u32> = present.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers.len(), jobs.len(), "none is there twice");
    }
}

on_both! {
    async fn releases_that_are_dropped_change_a_job_or_do_not(database) {
        let queue: JobQueue<u32> = database.queue("releases").await;
        let mut released = 0;
        for number in 0..200 {
            let held = queue.hold(Duration::from_secs(3_600)).push(&number).await.unwrap();
            let limit = Duration::from_micros(rand::rng().random_range(0..3_000));
            if let Ok(done) = timeout(limit, held.release()).await {
                assert!(done.unwrap());
                released += 1;
            }
        }
        let depth = queue.depth().await.unwrap();
        assert!(depth.ready >= released, "{depth:?} after {released}");
        assert_eq!(depth.ready + depth.invisible, 200);
    }
}

on_both! {
    /// PostgreSQL has no JSON text with U+0000. The push says so, and its neighbours succeed.
        async fn a_job_with_nul_is_refused_or_kept(database) {
            let queue: JobQueue<String> = database.queue("nul").await;
            let text = "a\0b".to_owned();
            let pushed = queue.push(&text).await;
            if database.is_postgres() {
                assert!(matches!(pushed, Err(Error::Nul)), "{pushed:?}");
                let header = PushOptions::new().header("x", "\0");
                let pushed = queue.push_with(&"a".to_owned(), header).await;
                assert!(matches!(pushed, Err(Error::Nul)), "{pushed:?}");
            } else {
                pushed.unwrap();
                let worker = queue
                    .worker(|text, _| async move { assert_eq!(text, "a\0b"); Ok(()) })
                    .start();
                eventually("it is done", async || worker.counts().done == 1).await;
            }
        }
}

/// One job that the database refuses fails alone, also in a batch with others: a constraint that a
/// user added refuses it here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_job_fails_alone() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let queue: JobQueue<u32> = database.queue("refused").await;
    let Database::Postgres(server, name) = &database else {
        unreachable!()
    };
    let constraint = "ALTER TABLE pgmq.q_refused ADD CHECK (message <> '25'::jsonb)";
    server.execute(name, constraint).await;
    let pushes: Vec<_> = (0..50)
        .map(|number| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.push(&number).await })
        })
        .collect();
    for (number, push) in pushes.into_iter().enumerate() {
        let pushed = push.await.unwrap();
        assert_eq!(pushed.is_ok(), number != 25, "{number}: {pushed:?}");
    }
    assert_eq!(queue.depth().await.unwrap().ready, 49);
}
