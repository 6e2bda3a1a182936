//! What a task costs as more and more of them are pending, and what a request costs as more and more threads serve.
//!
//! `cargo bench --bench scale`. Pending tasks are collected in open responses, or released and waiting for the one place that
//! there is, each of a request of its own or all of one. Memory is the growth of what the process has resident, in a process of
//! its own for each figure. With threads, each worker has a driver that calls its own clone of the service without a pause, and
//! all share one supervisor: what they wait for is each other.

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
    ("collected, hand-written", 1_000_000),
    ("collected, layer", 1_000_000),
    ("no task, layer", 1_000_000),
    ("waiting, a request each", 1_000_000),
    // More would take minutes, as long as the line of a request is searched from one end to the other.
    ("waiting, one request", 100_000),
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
        let (number, tasks) = (number.parse().expect("a number"), tasks.parse().expect("a number"));
        return if SERVING_WAYS.contains(&&**way) { serving(way, number, tasks) } else { pending(way, number) };
    }
    println!("{}\n", figures::machine());
    let mut figures = Figures::of("scale");
    println!("| pending tasks | how many | ns to add one | bytes for one | ns to end one |\n|---|---:|---:|---:|---:|");
    for (way, most) in PENDING_WAYS {
        for number in PENDING.into_iter().filter(|number| *number <= most) {
            let rounds: Vec<_> = (0..PENDING_ROUNDS).map(|_| alone(way, number, 1)).collect();
            let [add, bytes, end] =
                [0, 1, 2].map(|column| rounds.iter().map(|round| round[column]).fold(f64::INFINITY, f64::min));
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
                let ratio = median(mine.iter().zip(&rounds[0]).map(|(mine, without)| mine / without));
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
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).expect("it writes text");
    output.split_whitespace().map(|figure| figure.parse().expect("a number")).collect()
}

/// What the process has in memory, in bytes, where Linux tells it.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(f64::NAN, |kilobytes: f64| kilobytes * 1024.0)
}

/// Makes tasks pending, then lets them end. Prints the time to add one, the memory of one and the time to end one.
fn pending(way: &str, number: usize) {
    let supervisor = match way {
        "waiting, a request each" | "waiting, one request" => Supervisor::builder().max_concurrent(1).build(),
        _ => Supervisor::new(),
    };
    let layer = BackgroundLayer::with(supervisor);
    let done = Arc::new(AtomicUsize::new(0));
    let task = Counted(Arc::clone(&done));
    let run = Pending { number, done };
    Builder::new_current_thread().build().expect("a runtime").block_on(async {
        match way {
            "collected, hand-written" => run.collected(PlainLayer(leaving_to_plain_layer(task, 1)), number).await,
            "collected, layer" => run.collected(layer.layer(leaving(task, 1)), number).await,
            "no task, layer" => run.collected(layer.layer(leaving(task, 0)), 0).await,
            "waiting, a request each" => run.waiting(&layer, leaving(task, 1), number).await,
            "waiting, one request" => run.waiting(&layer, leaving(task, number), 1).await,
            other => panic!("{other} is no way"),
        }
    });
}

struct Pending {
    number: usize,
    done: Arc<AtomicUsize>,
}

impl Pending {
    /// The tasks are collected in as many responses, which are all open.
    async fn collected<S, B>(&self, mut service: S, tasks: usize)
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    {
        let mut bodies = Vec::with_capacity(self.number);
        warm_up().await;
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

    /// The tasks are released, and wait for the one that has the place.
    async fn waiting<S>(&self, layer: &BackgroundLayer, service: S, requests: usize)
    where
        S: Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible>,
    {
        let (leave, left) = oneshot::channel::<()>();
        let mut left = Some(left);
        let blocker = service_fn(|request: Request<()>| {
            let left = left.take().expect("it is called once");
            assert!(request.background_tasks().expect("the layer is there").add(async { left.await.expect("it is told") }));
            response()
        });
        let Ok(response) = layer.layer(blocker).call(Request::new(())).await;
        drop(response);
        warm_up().await;
        assert_eq!(layer.supervisor().stats().running, 1);

        let mut service = layer.layer(service);
        let before = resident();
        let started = Instant::now();
        for _ in 0..requests {
            let Ok(response) = service.call(Request::new(())).await;
            drop(response);
        }
        // Each of the runners has taken its turn by then, and stands in line.
        warm_up().await;
        let added = started.elapsed();
        let memory = resident() - before;
        assert_eq!(usize::try_from(layer.supervisor().stats().waiting), Ok(self.number));
        let started = Instant::now();
        leave.send(()).expect("the place is taken");
        layer.supervisor().idle().await;
        self.print(added.as_secs_f64(), memory, started.elapsed().as_secs_f64());
        assert_eq!(self.done.load(Relaxed), self.number);
    }

    fn print(&self, added: f64, memory: f64, ended: f64) {
        let each = |figure: f64| figure / self.number as f64;
        println!("{} {} {}", each(added * 1e9), each(memory), each(ended * 1e9));
    }
}

/// Lets all tasks of the runtime take a few turns: one of tokio's that goes to the back of the queue a few times.
async fn warm_up() {
    tokio::spawn(async {
        for _ in 0..8 {
            yield_now().await;
        }
    })
    .await
    .expect("it can't panic");
}

/// Calls a service from each of the workers. Prints the requests per second.
fn serving(way: &str, workers: usize, tasks: usize) {
    let layer = BackgroundLayer::new();
    let runtime = Builder::new_multi_thread().worker_threads(workers).build().expect("a runtime");
    runtime.block_on(async {
        let mut drivers = JoinSet::new();
        let started = Instant::now();
        for _ in 0..workers {
            let requests = REQUESTS / workers;
            let done = Arc::new(AtomicUsize::new(0));
            let task = Counted(Arc::clone(&done));
            let driver = Driver { requests, tasks: requests * tasks, done };
            match way {
                "without" => drivers.spawn(driver.run(spawning(task, tasks))),
                "hand-written, plain" => drivers.spawn(driver.run(PlainLayer(leaving_to_plain_layer(task, tasks)))),
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
fn leaving_to_plain_layer(counted: Counted, tasks: usize) -> ServiceFn<impl Fn(Request<()>) -> Answer + Send> {
    service_fn(move |request: Request<()>| {
        let list = request.extensions().get::<Tasks>().expect("the layer is there");
        (0..tasks).for_each(|_| list.add(counted.task()));
        response()
    })
}

/// A service that leaves its tasks to this crate.
fn leaving(counted: Counted, tasks: usize) -> ServiceFn<impl Fn(Request<()>) -> Answer + Send> {
    service_fn(move |request: Request<()>| {
        let list = request.background_tasks().expect("the layer is there");
        assert!((0..tasks).all(|_| list.add(counted.task())));
        response()
    })
}
