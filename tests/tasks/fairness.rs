//! Timers and other requests make progress while one request runs many tasks, or an endless chain
//! of tasks.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio_util::task::TaskTracker;
use tower_background::{BackgroundTasks, Order, Supervisor, Task, defer};

use crate::common::{Call, PATIENCE, Server, alone, one_thread, soon, workers};

const TASKS: usize = 20_000;

/// Computes for 20 us.
fn compute() {
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(20) {
        std::hint::spin_loop();
    }
}

/// How much progress others made while something ran.
#[derive(Debug, Clone, Copy)]
struct Turns {
    /// How often a timer of 1 ms fired.
    timer: usize,
    /// How many requests of one client were answered.
    requests: usize,
}

impl Turns {
    /// Counts while `work` runs on the runtime of the server.
    async fn beside(address: SocketAddr, work: impl Future<Output = ()>) -> Self {
        let fired = Arc::new(AtomicUsize::new(0));
        let counter = fired.clone();
        let timer = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                counter.fetch_add(1, SeqCst);
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let client = thread::spawn(move || ask_until(address, &stopped));
        let before = fired.load(SeqCst);
        soon(work).await;
        let timer_turns = fired.load(SeqCst) - before;
        timer.abort();
        stop.store(true, SeqCst);
        let requests = tokio::task::spawn_blocking(|| client.join())
            .await
            .expect("it is not aborted");
        Self {
            timer: timer_turns,
            requests: requests.expect("the client does not panic"),
        }
    }
}

/// Makes one request after the other on one connection, and counts the answers.
fn ask_until(address: SocketAddr, stopped: &AtomicBool) -> usize {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("it is a TCP stream");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("the time is not zero");
    let mut answered = 0;
    while !stopped.load(SeqCst) {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .expect("the server reads");
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\nhello") {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).expect("the server answers");
            assert_ne!(count, 0, "the server should not close");
            read.extend_from_slice(&bytes[..count]);
        }
        answered += 1;
    }
    answered
}

/// Compares one request that leaves 20,000 tasks with 20,000 tasks that are spawned, on one worker.
async fn compare() -> [Turns; 2] {
    let supervisor = Supervisor::new();
    let router = Router::new().route("/", get(async || "hello")).route(
        "/many",
        get(async |tasks: BackgroundTasks| {
            for _ in 0..TASKS {
                tasks.add(async { compute() });
            }
            "many"
        }),
    );
    let server = Server::router(&supervisor, router).await;
    let spawned = Turns::beside(server.address, async {
        let tracker = TaskTracker::new();
        let spawning = tracker.clone();
        // From a worker, as the tasks of a request are.
        tokio::spawn(
            async move { (0..TASKS).for_each(|_| drop(spawning.spawn(async { compute() }))) },
        )
        .await
        .expect("no panic");
        tracker.close();
        tracker.wait().await;
    });
    let spawned = spawned.await;
    let ours = Turns::beside(server.address, async {
        assert_eq!(server.get("/many").await.1, "many");
        supervisor.idle().await;
    });
    let ours = ours.await;
    assert_eq!(supervisor.stats().succeeded, TASKS as u64);
    [spawned, ours]
}

/// Another process may disturb one comparison, but not each of three.
#[test]
fn many_tasks_leave_others_their_turns() {
    alone!(many_tasks_leave_others_their_turns, || {
        let mut compared = Vec::new();
        while compared.len() < 3 {
            let [spawned, ours] = workers(1).block_on(compare());
            assert!(
                spawned.timer >= 10 && spawned.requests >= 10,
                "too few turns to compare: {spawned:?}"
            );
            compared.push((spawned, ours));
            if ours.timer * 2 >= spawned.timer && ours.requests * 2 >= spawned.requests {
                return;
            }
        }
        panic!(
            "turns of others beside spawned tasks, and beside tasks of a request: {compared:#?}"
        );
    });
}

/// The number of tasks after which the chain gives up. About a thousand of them run while a timer
/// of 1 ms waits.
const LONGEST: usize = 2_000_000;

/// A task that adds the next task to its own request, until it is told to stop.
fn link(nth: usize, stop: Arc<AtomicBool>) -> Task {
    Task::new(async move {
        if nth < LONGEST && !stop.load(SeqCst) {
            defer(link(nth + 1, stop)).expect("a task belongs to a request");
        } else {
            stop.store(true, SeqCst);
        }
    })
}

fn an_endless_chain_leaves_others_their_turns(order: Order) {
    one_thread().block_on(async {
        let supervisor = Supervisor::new();
        let stop = Arc::new(AtomicBool::new(false));
        let call = Call::new(&supervisor, "/chain");
        call.tasks.set_order(order);
        call.tasks.add(link(0, stop.clone()));
        call.finish().await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let other = Call::new(&supervisor, "/other");
            let (ran, runs) = tokio::sync::oneshot::channel();
            other
                .tasks
                .add(async move { ran.send(()).expect("the test waits") });
            other.finish().await;
            soon(runs)
                .await
                .expect("the task of the other request runs");
        }
        assert!(
            !stop.swap(true, SeqCst),
            "the chain had {LONGEST} tasks before others got five turns"
        );
        soon(supervisor.idle()).await;
    });
}

#[test]
fn a_sequential_chain() {
    alone!(a_sequential_chain, || {
        an_endless_chain_leaves_others_their_turns(Order::Sequential);
    });
}

#[test]
fn a_concurrent_chain() {
    alone!(a_concurrent_chain, || {
        an_endless_chain_leaves_others_their_turns(Order::Concurrent);
    });
}
