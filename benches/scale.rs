//! What a task costs as more tasks are pending, and what a request costs as more threads serve.
//!
//! `cargo bench --bench scale`. Pending tasks are deferred in open responses, or they wait for the
//! only permit. Each queued task belongs to its own request, or all belong to one. Memory is the
//! growth of the process's resident memory, and each number comes from its own process. With
//! threads, each worker has a caller that calls its own clone of the service without a pause. All
//! callers share one supervisor, so they wait for each other.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod figures;
mod plain_layer;

use std::{
    convert::Infallible,
    env, fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    runtime::Builder,
    sync::oneshot,
    task::{JoinSet, yield_now},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

use figures::Figures;
use plain_layer::{PlainLayer, Tasks};

const PENDING: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// How tasks are pending, and the most of them that are measured.
const PENDING_WAYS: [(&str, usize); 5] = [
    ("deferred, hand-written", 1_000_000),
    ("deferred, layer", 1_000_000),
    ("no task, layer", 1_000_000),
    ("queued, a request each", 1_000_000),
    ("queued, one request", 1_000_000),
];
/// The best of so many counts.
const PENDING_ROUNDS: usize = 3;

const WORKERS: [usize; 4] = [1, 2, 4, 8];
/// The first is what the others are measured against.
const SERVING_WAYS: [&str; 3] = ["without", "hand-written, plain", "layer"];
const SERVING_ROUNDS: usize = 7;
const REQUESTS: usize = 400_000;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [one, way, number, tasks] = &arguments[..] {
        assert_eq!(one, "one");
        let (number, tasks) = (
            number.parse().expect("a number"),
            tasks.parse().expect("a number"),
        );
        return if SERVING_WAYS.contains(&&**way) {
            serving(way, number, tasks);
        } else {
            pending(way, number);
        };
    }
    println!("{}\n", figures::machine());
    let mut figures = Figures::of("scale");
    println!(
        "| pending tasks | how many | ns to add one | bytes for one | ns to end one |\n|---|---:|---:|---:|---:|"
    );
    for (way, most) in PENDING_WAYS {
        for number in PENDING.into_iter().filter(|number| *number <= most) {
            let rounds: Vec<_> = (0..PENDING_ROUNDS).map(|_| alone(way, number, 1)).collect();
            let [add, bytes, end] = [0, 1, 2].map(|column| {
                rounds
                    .iter()
                    .map(|round| round[column])
                    .fold(f64::INFINITY, f64::min)
            });
            println!("| {way} | {number} | {add:.0} | {bytes:.0} | {end:.0} |");
            for (what, figure) in [("ns to add", add), ("bytes", bytes), ("ns to end", end)] {
                figures.note(what, way, number, figure);
            }
        }
    }
    println!("\n| tasks | workers | way | requests/s | ratio |\n|---|---:|---|---:|---:|");
    for tasks in [0, 1] {
        for workers in WORKERS {
            let mut rounds = SERVING_WAYS.map(|_| Vec::new());
            for _ in 0..SERVING_ROUNDS {
                for (way, rounds) in SERVING_WAYS.into_iter().zip(&mut rounds) {
                    rounds.push(alone(way, workers, tasks)[0]);
                }
            }
            for (way, mine) in SERVING_WAYS.into_iter().zip(&rounds) {
                let rate = median(mine.iter().copied());
                let ratio = median(
                    mine.iter()
                        .zip(&rounds[0])
                        .map(|(mine, without)| mine / without),
                );
                println!("| {tasks} | {workers} | {way} | {rate:.0} | {ratio:.3} |");
                figures.note(&format!("rate with {tasks}"), way, workers, rate);
                figures.note(&format!("ratio with {tasks}"), way, workers, ratio);
            }
        }
    }
    figures.save();
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The figures that a process of its own prints.
fn alone(way: &str, number: usize, tasks: usize) -> Vec<f64> {
    let output = Command::new(env::current_exe().expect("this is a file"))
        .args(["one", way, &number.to_string(), &tasks.to_string()])
        .output()
        .expect("this runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = String::from_utf8(output.stdout).expect("it writes text");
    output
        .split_whitespace()
        .map(|figure| figure.parse().expect("a number"))
        .collect()
}

/// What the process has in memory, in bytes, where Linux tells it.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    kilobytes.map_or(f64::NAN, |kilobytes: f64| kilobytes * 1024.0)
}

/// Makes tasks pending, then lets them end. Prints the time to add a task, its memory and the time
/// to end it.
fn pending(way: &str, number: usize) {
    let supervisor = match way {
        "queued, a request each" | "queued, one request" => {
            Supervisor::builder().max_concurrent(1).build()
        }
        _ => Supervisor::new(),
    };
    let layer = BackgroundLayer::with_supervisor(supervisor);
    let done = Arc::new(AtomicUsize::new(0));
    let task = Counted(Arc::clone(&done));
    let run = Pending { number, done };
    Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(async {
            match way {
                "deferred, hand-written" => {
                    run.deferred(PlainLayer(leaving_to_plain_layer(task, 1)), number)
                        .await;
                }
                "deferred, layer" => run.deferred(layer.layer(leaving(task, 1)), number).await,
                "no task, layer" => run.deferred(layer.layer(leaving(task, 0)), 0).await,
                "queued, a request each" => run.queued(&layer, leaving(task, 1), number).await,
                "queued, one request" => run.queued(&layer, leaving(task, number), 1).await,
                other => panic!("{other} is no way"),
            }
        });
}

struct Pending {
    number: usize,
    done: Arc<AtomicUsize>,
}

impl Pending {
    /// The tasks are deferred in as many responses, which are all open.
    async fn deferred<S, B>(&self, mut service: S, tasks: usize)
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    {
        let mut bodies = Vec::with_capacity(self.number);
        take_turns(8).await;
        let before = resident();
        let started = Instant::now();
        for _ in 0..self.number {
            let Ok(response) = service.call(Request::new(())).await;
            bodies.push(response.into_body());
        }
        let added = started.elapsed();
        let memory = resident() - before;
        let started = Instant::now();
        drop(bodies);
        while self.done.load(Relaxed) < tasks {
            yield_now().await;
        }
        self.print(added.as_secs_f64(), memory, started.elapsed().as_secs_f64());
    }

    /// The tasks wait for the one that has the permit.
    async fn queued<S>(&self, layer: &BackgroundLayer, service: S, requests: usize)
    where
        S: Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible>,
    {
        let (leave, left) = oneshot::channel::<()>();
        let mut left = Some(left);
        let blocker = service_fn(|request: Request<()>| {
            let left = left.take().expect("it is called once");
            request
                .background_tasks()
                .expect("the layer is there")
                .add(async { left.await.expect("the sender sends") });
            response()
        });
        let Ok(response) = layer.layer(blocker).call(Request::new(())).await;
        drop(response);
        take_turns(8).await;
        assert_eq!(layer.supervisor().stats().running, 1);

        let mut service = layer.layer(service);
        let before = resident();
        let started = Instant::now();
        for _ in 0..requests {
            let Ok(response) = service.call(Request::new(())).await;
            drop(response);
        }
        // The driver of a request has spawned all its tasks by then. It yields after at most 128 of
        // them.
        take_turns(8 + self.number / 64).await;
        let added = started.elapsed();
        let memory = resident() - before;
        assert_eq!(
            usize::try_from(layer.supervisor().stats().queued),
            Ok(self.number)
        );
        let started = Instant::now();
        leave.send(()).expect("the task runs");
        layer.supervisor().idle().await;
        self.print(added.as_secs_f64(), memory, started.elapsed().as_secs_f64());
        assert_eq!(self.done.load(Relaxed), self.number);
    }

    fn print(&self, added: f64, memory: f64, ended: f64) {
        let each = |figure: f64| figure / self.number as f64;
        println!(
            "{} {} {}",
            each(added * 1e9),
            each(memory),
            each(ended * 1e9)
        );
    }
}

/// Lets all tasks of the runtime take this many turns.
async fn take_turns(turns: usize) {
    // This task goes to the back of the queue each time.
    tokio::spawn(async move {
        for _ in 0..turns {
            yield_now().await;
        }
    })
    .await
    .expect("it can't panic");
}

/// Calls a service from each of the workers. Prints the requests per second.
fn serving(way: &str, workers: usize, tasks: usize) {
    let layer = BackgroundLayer::new();
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut drivers = JoinSet::new();
        let started = Instant::now();
        for _ in 0..workers {
            let requests = REQUESTS / workers;
            let done = Arc::new(AtomicUsize::new(0));
            let task = Counted(Arc::clone(&done));
            let driver = Driver {
                requests,
                tasks: requests * tasks,
                done,
            };
            match way {
                "without" => drivers.spawn(driver.run(spawning(task, tasks))),
                "hand-written, plain" => {
                    drivers.spawn(driver.run(PlainLayer(leaving_to_plain_layer(task, tasks))))
                }
                _ => drivers.spawn(driver.run(layer.layer(leaving(task, tasks)))),
            };
        }
        drivers.join_all().await;
        println!("{}", REQUESTS as f64 / started.elapsed().as_secs_f64());
    });
}

struct Driver {
    requests: usize,
    tasks: usize,
    done: Arc<AtomicUsize>,
}

impl Driver {
    async fn run<S, B>(self, mut service: S)
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible, Future: Send> + Send,
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin,
    {
        for _ in 0..self.requests {
            let Ok(service) = service.ready().await;
            let Ok(response) = service.call(Request::new(())).await;
            let mut body = response.into_body();
            while body.frame().await.is_some() {}
            drop(body);
            // As a connection would between two requests: the tasks have their turn.
            yield_now().await;
        }
        while self.done.load(Relaxed) < self.tasks {
            yield_now().await;
        }
    }
}

/// Makes tasks that count their end.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let done = Arc::clone(&self.0);
        async move {
            done.fetch_add(1, Relaxed);
        }
    }
}

type Answer = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn response() -> Answer {
    std::future::ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
}

/// A service that spawns its tasks.
fn spawning(counted: Counted, tasks: usize) -> ServiceFn<impl Fn(Request<()>) -> Answer + Send> {
    service_fn(move |_: Request<()>| {
        (0..tasks).for_each(|_| drop(tokio::spawn(counted.task())));
        response()
    })
}

/// A service that leaves its tasks to the plain hand-written layer.
fn leaving_to_plain_layer(
    counted: Counted,
    tasks: usize,
) -> ServiceFn<impl Fn(Request<()>) -> Answer + Send> {
    service_fn(move |request: Request<()>| {
        let list = request
            .extensions()
            .get::<Tasks>()
            .expect("the layer is there");
        (0..tasks).for_each(|_| list.add(counted.task()));
        response()
    })
}

/// A service that leaves its tasks to this crate.
fn leaving(counted: Counted, tasks: usize) -> ServiceFn<impl Fn(Request<()>) -> Answer + Send> {
    service_fn(move |request: Request<()>| {
        let list = request.background_tasks().expect("the layer is there");
        (0..tasks).for_each(|_| list.add(counted.task()));
        response()
    })
}
