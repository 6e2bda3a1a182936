//! What is measured on each database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tower_background_jobs::{JobQueue, engines::QueueName};

use crate::{PAYLOAD, database::Database, support::large};

/// Pushes beside plain inserts.
pub(crate) async fn pushes(database: &Database, clients: usize, time: Duration) -> String {
    let plain = database.plain.clone();
    let Rate(plain, _) = rate(clients, time, move || plain.clone().insert()).await;
    let queue: JobQueue<String> = database.queue("pushes").await;
    let push = move || {
        let queue = queue.clone();
        async move {
            queue.push(&PAYLOAD.to_owned()).await.expect("it pushes");
        }
    };
    let Rate(pushes, p99) = rate(clients, time, push).await;
    format!("{pushes:.0} ({plain:.0}; {:.2}; {p99:.1?})", pushes / plain)
}

/// Calls per second, and the time that 99 of 100 calls take at most.
struct Rate(f64, Duration);

async fn rate<F>(
    clients: usize,
    time: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Rate
where
    F: Future<Output = ()> + Send,
{
    call().await;
    let begun = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < time {
                    let called = Instant::now();
                    call().await;
                    times.push(called.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.expect("it ends"));
    }
    let elapsed = begun.elapsed();
    times.sort_unstable();
    Rate(
        times.len() as f64 / elapsed.as_secs_f64(),
        times[times.len() * 99 / 100],
    )
}

/// Empty jobs per second of one worker.
pub(crate) async fn work(database: &Database, places: usize) -> String {
    const JOBS: u32 = 40_000;
    const CLIENTS: u32 = 200;
    let queue: JobQueue<u32> = database.queue(&format!("work_{places}")).await;
    let push = |_| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for number in 0..JOBS / CLIENTS {
                queue.push(&number).await.unwrap();
            }
        })
    };
    for push in (0..CLIENTS).map(push).collect::<Vec<_>>() {
        push.await.unwrap();
    }
    let begun = Instant::now();
    let worker = queue
        .worker(|_, _| async { Ok(()) })
        .concurrency(places)
        .start();
    while worker.counts().done < u64::from(JOBS) || worker.counts().running > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = f64::from(JOBS) / begun.elapsed().as_secs_f64();
    worker.stop(Duration::from_secs(5)).await;
    format!("{rate:.0}")
}

/// The time from a push to the start of its job by a worker that is idle.
pub(crate) async fn latency(pushing: JobQueue<u8>, working: JobQueue<u8>) -> String {
    let (told, mut started) = mpsc::unbounded_channel();
    let handler = move |_, _| {
        told.send(Instant::now()).expect("it is awaited");
        async { Ok(()) }
    };
    let worker = working.worker(handler).start();
    let mut times = Vec::new();
    for round in 0..200_u64 {
        // Not in step with the polls.
        tokio::time::sleep(Duration::from_millis(20 + round * 7 % 31)).await;
        let pushed = Instant::now();
        pushing.push(&1).await.unwrap();
        let started = started.recv().await.expect("it runs");
        times.push(started.duration_since(pushed));
    }
    worker.stop(Duration::from_secs(5)).await;
    times.sort_unstable();
    format!("{:.1?} / {:.1?}", times[100], times[190])
}

/// Reads of 16 messages from a small queue, and from a large one.
pub(crate) async fn reads(database: &Database) -> String {
    let small = read(database, "small").await;
    drop(database.queue::<u8>("large").await);
    large::fill(&database.location, "large").await;
    let large = read(database, "large").await;
    format!("{small:.2?} / {large:.2?}")
}

/// The median time of a read of 16 messages.
async fn read(database: &Database, name: &str) -> Duration {
    let queue: JobQueue<u8> = database.queue(name).await;
    let name = QueueName::new(name).unwrap();
    let engine = Arc::clone(&database.engine);
    let mut times = Vec::new();
    for _ in 0..100 {
        let push = |_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.push(&1).await })
        };
        for push in (0..16).map(push).collect::<Vec<_>>() {
            push.await.unwrap().unwrap();
        }
        let begun = Instant::now();
        let read = engine.read(&name, 16, Duration::from_secs(3_600)).await;
        times.push(begun.elapsed());
        assert_eq!(read.unwrap().messages.len(), 16);
    }
    times.sort_unstable();
    times[50]
}
