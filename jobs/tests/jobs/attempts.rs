//! What becomes of a job that does not succeed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime},
};

use tower_background_jobs::{
    Backoff, JobError, JobOutcome, JobQueue, PushOptions, engines::QueueName,
};

use crate::{on_both, support::eventually};

const SOON: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));

on_both! {
    async fn a_job_that_fails_is_tried_again_and_then_archived(database) {
        let queue: JobQueue<u8> = database.queue("failing").await;
        let id = queue.push(&1).await.unwrap();
        let (seen, mut see) = tokio::sync::mpsc::unbounded_channel();
        let worker = queue
            .worker(move |_, cx| {
                seen.send((cx.attempt(), cx.is_last_attempt())).unwrap();
                let attempt = cx.attempt();
                async move { Err(format!("refused in attempt {attempt}").into()) }
            })
            .backoff(SOON)
            .max_attempts(3)
            .start();
        for expected in [(1, false), (2, false), (3, true)] {
            assert_eq!(see.recv().await, Some(expected));
        }
        eventually("it is archived", async || {
            queue.depth().await.unwrap().archived == 1
        })
        .await;
        let job = queue.find(id).await.unwrap().expect("it is there");
        assert!(job.archived_at.is_some());
        assert_eq!((job.error(), job.failures()), (Some("refused in attempt 3"), 3));
        let counts = worker.stop(Duration::from_secs(5)).await;
        assert_eq!((counts.failed, counts.archived, counts.done), (2, 1, 0));

        // It starts anew when an operator says so.
        let id = queue.retry(id).await.unwrap().expect("it was archived");
        let worker = queue.worker(|_, cx| async move {
 assert_eq!(cx.attempt(), 1);
 Ok(()) }).start();
        eventually("it is done", async || worker.counts().done == 1).await;
        worker.stop(Duration::from_secs(5)).await;
        assert!(queue.find(id).await.unwrap().is_none());
    }
}

on_both! {
    async fn a_panic_is_the_failure_of_its_job_alone(database) {
        let queue: JobQueue<u8> = database.queue("panics").await;
        let bad = queue.push(&0).await.unwrap();
        for _ in 0..20 {
            queue.push(&1).await.unwrap();
        }
        let worker = queue
            .worker(|number, _| async move {
                assert!(number > 0, "a bad \0 number");
                Ok(())
            })
            .max_attempts(2)
            .backoff(SOON)
            .start();
        eventually("the others are done, and it is archived", async || {
            let counts = worker.counts();
            counts.done == 20 && counts.archived == 1 && counts.running == 0
        })
        .await;
        let job = queue.find(bad).await.unwrap().expect("it is archived");
        assert_eq!(job.error(), Some("panicked: a bad \u{fffd} number"));
    }
}

on_both! {
    /// `f64::NAN` is written as `null`, which no `f64` is read from. A newer worker may know better.
    async fn a_job_that_does_not_decode_is_tried_again(database) {
        let queue: JobQueue<f64> = database.queue("numbers").await;
        queue.push(&f64::NAN).await.unwrap();
        queue.push(&1.5).await.unwrap();
        let old = queue.worker(|_, _| async { Ok(()) }).backoff(SOON).start();
        eventually("it failed, and the other is done", async || {
            let counts = old.counts();
            counts.failed >= 2 && counts.done == 1
        })
        .await;
        old.stop(Duration::from_secs(5)).await;
        let newer: JobQueue<Option<f64>> = database.queue("numbers").await;
        let worker = newer.worker(|_, _| async { Ok(()) }).start();
        eventually("it is done", async || worker.counts().done == 1).await;
    }
}

on_both! {
    async fn a_handler_says_when_a_job_runs_again(database) {
        let queue: JobQueue<String> = database.queue("says").await;
        let worker = queue
            .worker(|what: String, cx| async move {
                match (what.as_str(), cx.attempt()) {
                    ("give up", 1) => Err(JobError::give_up("gone")),
                    ("retry", 1) => Err(JobError::retry_in(Duration::from_millis(300), "later")),
                    ("snooze", 1) if cx.headers().get("x-returns").is_none() => {
                        Err(JobError::snooze(Duration::from_millis(50)))
                    }
                    ("retry", 2) | ("snooze", 1) => Ok(()),
                    other => panic!("{other:?}"),
                }
            })
            .start();
        let given_up = queue.push(&"give up".to_owned()).await.unwrap();
        queue.push(&"snooze".to_owned()).await.unwrap();
        let begun = Instant::now();
        queue.push(&"retry".to_owned()).await.unwrap();
        eventually("all have ended", async || {
            let counts = worker.counts();
            counts.done == 2 && counts.archived == 1 && counts.running == 0
        })
        .await;
        assert!(begun.elapsed() >= Duration::from_millis(298), "{:?}", begun.elapsed());
        assert_eq!(worker.counts().returned, 1);
        let job = queue.find(given_up).await.unwrap().expect("it is archived");
        assert_eq!(job.error(), Some("gone"));
    }
}

on_both! {
    /// No database can count `Duration::MAX`, so the jobs wait as long as it can.
    async fn a_delay_may_be_of_any_length(database) {
        let queue: JobQueue<String> = database.queue("delays").await;
        let worker = queue
            .worker(|what: String, _| async move {
                match what.as_str() {
                    "retry" => Err(JobError::retry_in(Duration::MAX, "never")),
                    "snooze" => Err(JobError::snooze(Duration::MAX / 2)),
                    other => panic!("{other} does not run"),
                }
            })
            .start();
        let mut ids = vec![
            queue.push(&"retry".to_owned()).await.unwrap(),
            queue.push(&"snooze".to_owned()).await.unwrap(),
        ];
        eventually("both have returned", async || {
            let counts = worker.counts();
            counts.failed == 1 && counts.returned == 1 && counts.running == 0
        })
        .await;
        for delay in [Duration::MAX, Duration::from_secs(1 << 40)] {
            let options = PushOptions::new().delay(delay);
            ids.push(queue.push_with(&"delayed".to_owned(), options).await.unwrap());
        }
        let held = queue.hold(Duration::MAX).push(&"held".to_owned()).await.unwrap();
        ids.push(held.id());
        assert_eq!(worker.stop(Duration::from_secs(5)).await.running, 0);
        let in_100_years = SystemTime::now() + Duration::from_hours(24 * 365 * 100);
        for id in ids {
            let job = queue.find(id).await.unwrap().expect("it is there");
            assert!(job.visible_at > in_100_years, "{job:?}");
        }
        assert_eq!(queue.depth().await.unwrap().invisible, 5);
        assert_eq!(queue.purge(Duration::MAX).await.unwrap(), 0);
        assert!(held.release().await.unwrap());
    }
}

on_both! {
    /// The replies to three reads got lost: nobody ran the job. This looks like three deaths of a
    /// process, and yet the job runs.
    async fn a_job_that_never_ran_is_not_archived(database) {
        let queue: JobQueue<u8> = database.queue("unread").await;
        let (engine, name) = (database.engine().await, QueueName::new("unread").unwrap());
        queue.push(&1).await.unwrap();
        for _ in 0..3 {
            eventually("it is read", async || {
                let batch = engine.read(&name, 1, Duration::from_millis(20)).await.unwrap();
                !batch.messages.is_empty()
            })
            .await;
        }
        let worker = queue.worker(|_, _| async { Ok(()) }).max_attempts(1).start();
        eventually("it has ended", async || {
            let counts = worker.counts();
            counts.done + counts.archived == 1
        })
        .await;
        assert_eq!(worker.counts().done, 1);
    }
}

on_both! {
    async fn each_run_is_reported(database) {
        let queue: JobQueue<u8> = database.queue("reports").await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let runs = Arc::new(AtomicU32::new(0));
        let _worker = queue
            .worker(move |_, _| {
                let run = runs.fetch_add(1, SeqCst);
                async move { if run == 0 { Err("no".into()) } else { Ok(()) } }
            })
            .backoff(SOON)
            .on_end(move |report| tell.send(report.clone()).unwrap())
            .start();
        let id = queue.push(&1).await.unwrap();
        let first = told.recv().await.unwrap();
        assert_eq!((first.id, first.attempt, first.error.as_deref()), (id, 1, Some("no")));
        assert!(matches!(first.outcome, JobOutcome::Failed(_)));
        let second = told.recv().await.unwrap();
        assert_eq!((second.attempt, second.outcome), (2, JobOutcome::Done));
    }
}
