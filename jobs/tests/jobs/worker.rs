//! How a worker starts, shares and stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tower_background_jobs::{JobContext, JobError, JobQueue};

use crate::{on_both, support::eventually};

on_both! {
    async fn no_more_jobs_run_at_once_than_allowed(database) {
        let queue: JobQueue<usize> = database.queue("limit").await;
        for number in 0..60 {
            queue.push(&number).await.unwrap();
        }
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (running, highest) = (Arc::clone(&now), Arc::clone(&most));
        let worker = queue
            .worker(move |_, _| {
                let (running, highest) = (Arc::clone(&running), Arc::clone(&highest));
                async move {
                    highest.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    running.fetch_sub(1, SeqCst);
                    Ok(())
                }
            })
            .concurrency(7)
            .start();
        eventually("all are done", async || worker.counts().done == 60).await;
        assert_eq!(most.load(SeqCst), 7);
    }
}

on_both! {
    async fn two_workers_share_without_doing_a_job_twice(database) {
        let queue: JobQueue<usize> = database.queue("shared").await;
        for number in 0..500 {
            queue.push(&number).await.unwrap();
        }
        let ran = Arc::new((0..500).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let mut workers = Vec::new();
        for _ in 0..2 {
            let ran = Arc::clone(&ran);
            let queue: JobQueue<usize> = database.queue("shared").await;
            let handler = move |number: usize, _: JobContext| {
                ran[number].fetch_add(1, SeqCst);
                async { Ok(()) }
            };
            workers.push(queue.worker(handler).start());
        }
        eventually("all are done", async || {
            workers.iter().map(|worker| worker.counts().done).sum::<u64>() == 500
        })
        .await;
        assert!(ran.iter().all(|runs| runs.load(SeqCst) == 1));
    }
}

on_both! {
    /// Longer than a message is invisible: the worker extends the time.
    async fn a_long_job_runs_once(database) {
        let queue: JobQueue<u8> = database.queue("long").await;
        queue.push(&1).await.unwrap();
        let started = Arc::new(AtomicUsize::new(0));
        let mut workers = Vec::new();
        for _ in 0..2 {
            let started = Arc::clone(&started);
            let handler = move |_, _| {
                started.fetch_add(1, SeqCst);
                async {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    Ok(())
                }
            };
            let worker = queue.worker(handler).invisible(Duration::from_millis(900));
            workers.push(worker.start());
        }
        eventually("it is done", async || {
            workers.iter().any(|worker| worker.counts().done == 1)
        })
        .await;
        assert_eq!(started.load(SeqCst), 1);
    }
}

on_both! {
    async fn a_stop_waits_for_jobs_that_end_in_time(database) {
        let queue: JobQueue<u8> = database.queue("stop").await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let worker = queue
            .worker(move |_, cx| {
                tell.send(()).unwrap();
                async move {
                    cx.cancelled().await;
                    Ok(())
                }
            })
            .concurrency(2)
            .start();
        for number in 0..5 {
            queue.push(&number).await.unwrap();
        }
        for _ in 0..2 {
            told.recv().await;
        }
        let counts = worker.stop(Duration::from_secs(20)).await;
        assert_eq!((counts.done, counts.running), (2, 0), "their tokens were cancelled");
        assert_eq!(queue.depth().await.unwrap().ready, 3);
    }
}

on_both! {
    async fn a_stop_gives_back_what_does_not_end(database) {
        let queue: JobQueue<u8> = database.queue("stop_hard").await;
        queue.push(&1).await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let worker = queue
            .worker(move |_, _| {
                tell.send(()).unwrap();
                std::future::pending()
            })
            .start();
        told.recv().await;
        let begun = Instant::now();
        let counts = worker.stop(Duration::from_millis(300)).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!((counts.returned, counts.running), (1, 0));
        // It runs at once, and that was no attempt.
        let worker = queue
            .worker(|_, cx| async move {
 assert_eq!(cx.attempt(), 1);
 Ok(()) })
            .start();
        eventually("it is done", async || worker.counts().done == 1).await;
    }
}

on_both! {
    /// The worker that lost its job is told, and its late end changes nothing.
    async fn a_job_that_another_worker_took_is_cancelled(database) {
        let queue: JobQueue<u8> = database.queue("taken").await;
        let id = queue.push(&1).await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let first = queue
            .worker(move |_, cx| {
                let tell = tell.clone();
                async move {
                    tell.send("started").unwrap();
                    cx.cancelled().await;
                    tell.send("cancelled").unwrap();
                    Ok(())
                }
            })
            .invisible(Duration::from_millis(600))
            .concurrency(1)
            .start();
        assert_eq!(told.recv().await, Some("started"));
        let (end, may_end) = tokio::sync::watch::channel(false);
        let second = queue
            .worker(move |_, _| {
                let mut may_end = may_end.clone();
                async move {
                    may_end.wait_for(|end| *end).await?;
                    Err(JobError::give_up("of the second"))
                }
            })
            .start();
        // An operator makes it visible although it runs. The first worker may extend it before the
        // second one reads.
        while second.counts().running == 0 {
            queue.retry(id).await.unwrap();
            let read = eventually("it is read", async || second.counts().running == 1);
            let _ = tokio::time::timeout(Duration::from_millis(500), read).await;
        }
        assert_eq!(told.recv().await, Some("cancelled"));
        eventually("its end is refused", async || first.counts().lost == 1).await;
        first.stop(Duration::from_secs(5)).await;
        end.send(true).unwrap();
        eventually("the second one decides", async || second.counts().archived == 1).await;
        eventually("that is written", async || second.counts().running == 0).await;
        assert_eq!(queue.find(id).await.unwrap().unwrap().error(), Some("of the second"));
    }
}

on_both! {
    /// Handlers that block all threads of their runtime do not lose their jobs to other workers.
    async fn blocking_handlers_keep_their_jobs(database) {
        let queue: JobQueue<u8> = database.queue("blocking").await;
        let runs = Arc::new(AtomicUsize::new(0));
        let ran = Arc::clone(&runs);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let first = {
            let _guard = runtime.enter();
            let block = move |_, _| {
                ran.fetch_add(1, SeqCst);
                async {
                    std::thread::sleep(Duration::from_secs(2));
                    Ok(())
                }
            };
            queue.worker(block).invisible(Duration::from_millis(600)).start()
        };
        queue.push(&1).await.unwrap();
        eventually("it runs", async || runs.load(SeqCst) == 1).await;
        let second: JobQueue<u8> = database.queue("blocking").await;
        let second = second.worker(|_, _| async { Ok(()) }).start();
        eventually("it is done", async || first.counts().done == 1).await;
        assert_eq!(second.counts().done, 0, "it ran once");
        runtime.shutdown_background();
    }
}

on_both! {
    async fn an_idle_worker_starts_a_job_at_once(database) {
        let queue: JobQueue<u8> = database.queue("latency").await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let _worker = queue
            .worker(move |_, _| {
                tell.send(Instant::now()).unwrap();
                async { Ok(()) }
            })
            .start();
        queue.push(&0).await.unwrap();
        told.recv().await;
        let mut latencies = Vec::new();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let pushed = Instant::now();
            queue.push(&1).await.unwrap();
            latencies.push(told.recv().await.unwrap().duration_since(pushed));
        }
        latencies.sort_unstable();
        // Polls would take half of their interval.
        assert!(latencies[10] < Duration::from_millis(50), "{latencies:?}");
    }
}
