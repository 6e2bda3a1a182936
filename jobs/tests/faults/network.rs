//! A network between the engine and PostgreSQL that loses, cuts and goes silent.

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sqlx::postgres::PgConnectOptions;
use tower_background_jobs::{Counts, JobContext, JobQueue, PgmqEngine, RunningWorker};

use crate::support::{Database, eventually, postgres::url, proxy::Proxy};

const BOUND: Duration = Duration::from_secs(2);

/// A queue over a proxy, and the same queue directly.
struct Setup {
    proxy: Proxy,
    broken: JobQueue<u32>,
    direct: JobQueue<u32>,
}

async fn setup() -> Option<Setup> {
    let database = Database::postgres().await?;
    let Database::Postgres(server, name) = &database else {
        unreachable!()
    };
    let proxy = Proxy::to(server.port()).await;
    let options = PgConnectOptions::from_str(&url(proxy.port(), name)).unwrap();
    let engine = PgmqEngine::connect_with(options, BOUND).unwrap();
    // The first one creates the tables, which may take longer than `BOUND` on a busy disk.
    let direct = database.queue("net").await;
    let broken = JobQueue::open(engine, "net").await.unwrap().bound(BOUND);
    Some(Setup {
        proxy,
        broken,
        direct,
    })
}

/// The number and the attempt of each run.
type Runs = Arc<Mutex<Vec<(u32, u32)>>>;

fn worker(queue: &JobQueue<u32>, job: Duration) -> (RunningWorker, Runs) {
    let runs = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&runs);
    let handler = move |number: u32, cx: JobContext| {
        note.lock().unwrap().push((number, cx.attempt()));
        async move {
            tokio::time::sleep(job).await;
            Ok(())
        }
    };
    (
        queue
            .worker(handler)
            .invisible(Duration::from_secs(2))
            .start(),
        runs,
    )
}

async fn is_empty(queue: &JobQueue<u32>) -> bool {
    let depth = queue.depth().await.expect("the server is up");
    depth.ready + depth.invisible == 0
}

/// The server has committed the read, and the worker never hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_lost_read_come_back() {
    let Some(net) = setup().await else { return };
    let (worker, runs) = worker(&net.broken, Duration::ZERO);
    // The first reply after the push is that to a read, unless a poll comes in between.
    let mut pushed = 0;
    while !runs.lock().unwrap().iter().any(|run| run.1 == 2) {
        assert!(pushed < 60, "no read was lost: {:?}", runs.lock().unwrap());
        eventually("the worker is idle", async || worker.counts().running == 0).await;
        net.proxy.lose_replies();
        for _ in 0..3 {
            net.direct.push(&pushed).await.unwrap();
            pushed += 1;
        }
        eventually("all are done", async || is_empty(&net.direct).await).await;
    }
    assert!(net.proxy.lost() > 0);
    let mut runs: Vec<u32> = runs.lock().unwrap().iter().map(|run| run.0).collect();
    runs.sort_unstable();
    assert_eq!(runs, (0..pushed).collect::<Vec<_>>(), "once each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_killed_40_times_wedges_nothing() {
    let Some(net) = setup().await else { return };
    let (worker, runs) = worker(&net.broken, Duration::from_millis(20));
    const JOBS: u32 = 3_000;
    let push = async {
        for number in 0..JOBS {
            net.direct.push(&number).await.unwrap();
        }
    };
    let kill = async {
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(75)).await;
            net.proxy.kill();
        }
    };
    tokio::join!(push, kill);
    eventually("all are done", async || is_empty(&net.direct).await).await;
    let mut runs: Vec<u32> = runs.lock().unwrap().iter().map(|run| run.0).collect();
    let all = runs.len();
    runs.sort_unstable();
    runs.dedup();
    assert_eq!(runs, (0..JOBS).collect::<Vec<_>>());
    println!("{} of {JOBS} jobs ran again", all - runs.len());
    assert!(worker.counts().failed == 0);
}

/// No end of a connection is seen: only bounds help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_stop_nothing_for_long() {
    let Some(net) = setup().await else { return };
    let (worker, _) = worker(&net.broken, Duration::from_millis(20));
    for number in 0..200 {
        net.direct.push(&number).await.unwrap();
    }
    eventually("the worker works", async || worker.counts().done > 20).await;
    net.proxy.silence();
    let begun = Instant::now();
    let mut pushed = net.broken.push(&1).await;
    assert!(
        begun.elapsed() < BOUND + Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    while pushed.is_err() {
        assert!(begun.elapsed() < BOUND * 3, "{pushed:?}");
        pushed = net.broken.push(&1).await;
    }
    eventually("all are done", async || is_empty(&net.direct).await).await;
    println!("all done {:?} after the silence", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_in_time_while_the_network_is_silent() {
    let Some(net) = setup().await else { return };
    let (worker, _) = worker(&net.broken, Duration::from_millis(200));
    for number in 0..50 {
        net.direct.push(&number).await.unwrap();
    }
    eventually("the worker works", async || worker.counts().done > 0).await;
    net.proxy.silence();
    let begun = Instant::now();
    let Counts { running, .. } = worker.stop(Duration::from_millis(500)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    println!("{running} jobs were left to their time");
    let (_worker, _) = self::worker(&net.direct, Duration::ZERO);
    eventually("all are done", async || is_empty(&net.direct).await).await;
}

/// A held job is released as soon as the network is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_tried_again() {
    use axum::{Router, body::Body, http::Request, routing::post};
    use tower::ServiceExt;
    use tower_background::{BackgroundLayer, BackgroundTasks};

    let Some(net) = setup().await else { return };
    let held = net
        .broken
        .hold(Duration::from_secs(60))
        .push(&1)
        .await
        .unwrap();
    let layer = BackgroundLayer::new();
    let supervisor = layer.supervisor().clone();
    let slot = Arc::new(Mutex::new(Some(held)));
    let handler = move |tasks: BackgroundTasks| async move {
        let held = slot.lock().unwrap().take().unwrap();
        tasks.add(held.into_task());
    };
    let app = Router::new().route("/", post(handler)).layer(layer);
    net.proxy.silence();
    let begun = Instant::now();
    drop(
        app.oneshot(Request::post("/").body(Body::empty()).unwrap())
            .await
            .unwrap(),
    );
    supervisor.idle().await;
    assert_eq!(net.direct.depth().await.unwrap().ready, 1);
    println!("released {:?} after the silence", begun.elapsed());
}
