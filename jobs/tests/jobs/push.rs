//! Pushes: what answered `Ok` is there, in order, at its time, and in its transaction.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use sqlx::{Connection, PgConnection, SqliteConnection};
use tower_background_jobs::{Error, JobQueue, PushOptions};

use crate::{
    on_both,
    support::{Database, eventually},
};

on_both! {
    async fn jobs_run_in_the_order_of_their_pushes(database) {
        let queue: JobQueue<u32> = database.queue("numbers").await;
        for number in 0..100 {
            queue.push(&number).await.unwrap();
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let see = Arc::clone(&seen);
        let worker = queue
            .worker(move |number, _| {
                see.lock().unwrap().push(number);
                async { Ok(()) }
            })
            .concurrency(1)
            .start();
        eventually("all are done", async || worker.counts().done == 100).await;
        assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
        worker.stop(Duration::from_secs(5)).await;
        assert_eq!(queue.depth().await.unwrap(), Default::default());
    }
}

on_both! {
    async fn a_delayed_job_starts_at_its_time_and_not_before(database) {
        let queue: JobQueue<Duration> = database.queue("delays").await;
        let started = Arc::new(Mutex::new(Vec::new()));
        let start = Arc::clone(&started);
        let worker = queue
            .worker(move |delay, _| {
                start.lock().unwrap().push((delay, SystemTime::now()));
                async { Ok(()) }
            })
            .start();
        let pushed = SystemTime::now();
        let delays = [700, 350].map(Duration::from_millis);
        queue.push_with(&delays[0], PushOptions::new().delay(delays[0])).await.unwrap();
        queue.push_with(&delays[1], PushOptions::new().at(pushed + delays[1])).await.unwrap();
        eventually("both are done", async || worker.counts().done == 2).await;
        for (delay, at) in &*started.lock().unwrap() {
            let waited = at.duration_since(pushed).unwrap();
            assert!(waited + Duration::from_millis(2) >= *delay, "{waited:?} < {delay:?}");
        }
        assert_eq!(started.lock().unwrap()[0].0, delays[1], "the shorter delay is first");
    }
}

on_both! {
    async fn headers_reach_the_handler(database) {
        let queue: JobQueue<()> = database.queue("headers").await;
        let options = PushOptions::new().header("traceparent", "00-a-b-01").header("tenant", 7);
        let id = queue.push_with(&(), options).await.unwrap();
        let (seen, mut see) = tokio::sync::mpsc::unbounded_channel();
        let _worker = queue
            .worker(move |(), cx| {
                let tenant = cx.headers()["tenant"].as_u64();
                seen.send((cx.id(), cx.header("traceparent").map(str::to_owned), tenant)).unwrap();
                async { Ok(()) }
            })
            .start();
        let seen = see.recv().await.unwrap();
        assert_eq!(seen, (id, Some("00-a-b-01".to_owned()), Some(7)));
    }
}

on_both! {
    async fn push_in_follows_the_transaction(database) {
        let queue: JobQueue<String> = database.queue("tx").await;
        let (yes, no) = ("yes".to_owned(), "no".to_owned());
        match &database {
            Database::Sqlite(_) => {
                let url = format!("sqlite://{}", database.path().display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                let mut rolled_back = connection.begin().await.unwrap();
                queue.push_in(&mut rolled_back, &no).await.unwrap();
                rolled_back.rollback().await.unwrap();
                let mut committed = connection.begin().await.unwrap();
                queue.push_in(&mut committed, &yes).await.unwrap();
                assert_eq!(queue.depth().await.unwrap().ready, 0, "not yet committed");
                committed.commit().await.unwrap();
            }
            Database::Postgres(..) => {
                let mut connection = PgConnection::connect(&database.url()).await.unwrap();
                let mut rolled_back = connection.begin().await.unwrap();
                queue.push_in(&mut rolled_back, &no).await.unwrap();
                rolled_back.rollback().await.unwrap();
                let mut committed = connection.begin().await.unwrap();
                queue.push_in(&mut committed, &yes).await.unwrap();
                assert_eq!(queue.depth().await.unwrap().ready, 0, "not yet committed");
                committed.commit().await.unwrap();
            }
        }
        let jobs = queue.list_queued(0, 10).await.unwrap();
        assert_eq!(jobs.iter().map(|job| job.body.as_str()).collect::<Vec<_>>(), ["\"yes\""]);
    }
}

#[tokio::test]
async fn a_transaction_on_another_database_is_an_error() {
    let Some(postgres) = Database::postgres().await else {
        return;
    };
    let queue: JobQueue<()> = postgres.queue("wrong").await;
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let pushed = queue.push_in(&mut transaction, &()).await;
    assert!(matches!(pushed, Err(Error::WrongDatabase)), "{pushed:?}");
}

on_both! {
    /// A push in a transaction wakes a worker of another engine at its commit.
    async fn pushes_of_others_are_found_soon(database) {
        let pushing: JobQueue<u8> = database.queue("other").await;
        let working: JobQueue<u8> = database.queue("other").await;
        let worker = working.worker(|_, _| async { Ok(()) }).start();
        pushing.push(&1).await.unwrap();
        eventually("the first is done", async || worker.counts().done == 1).await;
        let pushed = std::time::Instant::now();
        pushing.push(&2).await.unwrap();
        eventually("the second is done", async || worker.counts().done == 2).await;
        // The polls of PostgreSQL are a second apart: this was the notification.
        assert!(pushed.elapsed() < Duration::from_millis(900), "{:?}", pushed.elapsed());
    }
}

on_both! {
    async fn many_pushes_at_once_are_all_there(database) {
        let queue: JobQueue<usize> = database.queue("many").await;
        let pushes: Vec<_> = (0..2_000)
            .map(|number| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let delay = Duration::from_secs(3_600 * (number % 3) as u64);
                    let options = PushOptions::new().delay(delay).header("number", number);
                    queue.push_with(&number, options).await.unwrap()
                })
            })
            .collect();
        let mut ids = Vec::new();
        for push in pushes {
            ids.push(push.await.unwrap());
        }
        let jobs = queue.list_queued(0, 5_000).await.unwrap();
        assert_eq!(jobs.len(), 2_000);
        for job in jobs {
            let number: usize = job.body.parse().unwrap();
            assert_eq!(ids[number], job.id, "a push returns the id of its own job");
            assert_eq!(job.headers["number"], number);
        }
        let depth = queue.depth().await.unwrap();
        assert_eq!((depth.ready, depth.invisible), (667, 1_333));
    }
}

on_both! {
    async fn a_bound_can_be_of_any_length(database) {
        let engine = database.engine_with(Duration::MAX).await;
        let queue: JobQueue<u8> = JobQueue::open_shared(engine, "patient").await.unwrap();
        let queue = queue.bound(Duration::MAX);
        queue.push(&1).await.unwrap();
        let worker = queue.worker(|_, _| async { Ok(()) }).start();
        eventually("the job is done", async || worker.counts().done == 1).await;
        eventually("that is written", async || worker.counts().running == 0).await;
        assert_eq!(queue.depth().await.unwrap(), Default::default());
    }
}
