//! How the costs grow: with the number of tasks that wait, with the number of open responses, and
//! with the number of workers.
//!
//! `cargo bench --bench scale`. With `-- short` it takes fewer rounds, and a tenth of the tasks.
//!
//! - The cost of a task, from the call of its request to its end, while many other tasks wait. The
//!   reference has the same number of tasks without this crate, because more memory costs more
//!   cache misses in any program.
//! - The longest time that another thread waits for `Supervisor::stats`, which takes all locks that
//!   tasks take.
//! - The time of tasks that compute, on one worker and on two.

#![expect(clippy::cast_precision_loss, reason = "the numbers are small")]

mod cpu_time;
mod figures;
mod plain_layer;
mod same_promises;

use std::{
    convert::Infallible,
    env,
    hint::black_box,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::{
    runtime::Builder,
    sync::Semaphore,
    task::{JoinSet, yield_now},
};
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

use figures::{Figures, median, ratio};
use plain_layer::{PlainLayer, Tasks};
use same_promises::SamePromises;

const WAITING: [usize; 4] = [1, 1_000, 100_000, 1_000_000];
const OPEN: [usize; 4] = [1, 100, 1_000, 10_000];
/// A process repeats small numbers until it has measured so many tasks.
const TASKS: usize = 200_000;
const SPAWN: &str = "tokio::spawn";
const PLAIN: &str = "hand-written, plain";
const SAME_PROMISES: &str = "hand-written, same promises";
const LAYER: &str = "layer";

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let ["one", kind, way, number] = arguments[..] {
        let number = number.parse().expect("a number");
        println!("{}", one(kind, way, number));
        return;
    }
    let is_short = figures::is_short();
    let mut figures = Figures::of("scale");
    let (rounds, divisor) = if is_short { (3, 10) } else { (7, 1) };
    let growth = [
        ("waiting", "tasks that wait", [SPAWN, LAYER], WAITING),
        (
            "waiting",
            "tasks that wait",
            [SAME_PROMISES, LAYER],
            WAITING,
        ),
        ("open", "open responses", [PLAIN, LAYER], OPEN),
        ("open", "open responses", [SAME_PROMISES, LAYER], OPEN),
    ];
    let method = format!(
        "Nanoseconds of CPU time for one task, from the call of its request to its end, medians of {rounds} rounds. All tasks wait \
         at the same time, each task with its own request."
    );
    let header = ["", "at once", "reference", "layer", "layer : reference"];
    figures.table("scale-growth", &method, &header);
    for (kind, name, ways, numbers) in growth {
        for number in numbers {
            let number = if kind == "waiting" {
                number.div_ceil(divisor)
            } else {
                number
            };
            let mut times = [const { Vec::new() }; 2];
            for _ in 0..rounds {
                for (way, times) in ways.into_iter().zip(&mut times) {
                    times.push(alone(kind, way, number));
                }
            }
            let [reference, layer] = &times;
            figures.row(&[
                format!("{name}, reference {}", ways[0]),
                number.to_string(),
                format!("{:.0}", median(reference.iter().copied())),
                format!("{:.0}", median(layer.iter().copied())),
                ratio(layer, reference),
            ]);
        }
    }
    locks(&mut figures, rounds, 1_000_000 / divisor);
    compute(&mut figures, rounds);
    figures.save();
}

/// The number that a process of its own prints, so that no case finds the memory of another one.
fn alone(kind: &str, way: &str, number: usize) -> f64 {
    let output = Command::new(env::current_exe().expect("this is a file"))
        .args(["one", kind, way, &number.to_string()])
        .output()
        .expect("this runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let output = String::from_utf8(output.stdout).expect("it writes text");
    output.trim().parse().expect("a number")
}

/// The CPU time of one task in ns, if so many tasks wait at once.
fn one(kind: &str, way: &str, number: usize) -> f64 {
    let waits = kind == "waiting";
    let layer = BackgroundLayer::new();
    let run = Run {
        number,
        done: Arc::default(),
        permits: Arc::new(Semaphore::new(0)),
        waits,
    };
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        match way {
            SPAWN => {
                let task = run.task();
                let service = service_fn(move |_: Request<()>| {
                    drop(tokio::spawn(task()));
                    response()
                });
                run.measure(service).await
            }
            PLAIN => {
                let task = run.task();
                let service = service_fn(move |request: Request<()>| {
                    let tasks = request.extensions().get::<Tasks>();
                    tasks.expect("the layer is there").add(task());
                    response()
                });
                run.measure(PlainLayer(service)).await
            }
            SAME_PROMISES => {
                let task = run.task();
                let service = service_fn(move |request: Request<()>| {
                    let tasks = request.extensions().get::<same_promises::Tasks>();
                    assert!(tasks.expect("the layer is there").add("task", task()));
                    response()
                });
                let supervisor = same_promises::Supervisor::default();
                run.measure(SamePromises::new(service, supervisor)).await
            }
            _ => run.measure(layer.layer(leaving(run.task()))).await,
        }
    })
}

type Answer = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn response() -> Answer {
    std::future::ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
}

/// A service that leaves one task to this crate.
fn leaving<F: Future<Output = ()> + Send + 'static>(
    task: impl Fn() -> F + Clone + Send,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future = Answer>
+ Clone
+ Send {
    service_fn(move |request: Request<()>| {
        let tasks = request.background_tasks().expect("the layer is there");
        tasks.add(task());
        response()
    })
}

struct Run {
    number: usize,
    done: Arc<AtomicUsize>,
    /// Each task that waits takes a permit.
    permits: Arc<Semaphore>,
    /// Whether tasks wait, after their responses were dropped. Otherwise the responses stay open.
    waits: bool,
}

impl Run {
    fn task(
        &self,
    ) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + use<>
    {
        let (done, permits, waits) = (
            Arc::clone(&self.done),
            Arc::clone(&self.permits),
            self.waits,
        );
        move || {
            let (done, permits) = (Arc::clone(&done), Arc::clone(&permits));
            Box::pin(async move {
                if waits {
                    permits.acquire().await.expect("it is open").forget();
                }
                done.fetch_add(1, Relaxed);
            })
        }
    }

    async fn measure<S, B>(&self, mut service: S) -> f64
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        B: Body,
    {
        let repeats = (TASKS / self.number).max(1);
        if repeats > 1 {
            self.once(&mut service).await;
        }
        let before = cpu_time();
        for _ in 0..repeats {
            self.once(&mut service).await;
        }
        cpu_time().saturating_sub(before).as_secs_f64() * 1e9 / (repeats * self.number) as f64
    }

    /// Lets all tasks wait at once, and then end.
    async fn once<S, B>(&self, service: &mut S)
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        B: Body,
    {
        self.done.store(0, Relaxed);
        let mut bodies = Vec::with_capacity(if self.waits { 0 } else { self.number });
        for count in 1..=self.number {
            let Ok(response) = service.call(Request::new(())).await;
            if !self.waits {
                bodies.push(response.into_body());
            } else if count % 32 == 0 {
                // Lets the tasks start. A connection also yields between its requests.
                yield_now().await;
            }
        }
        drop(bodies);
        if self.waits {
            self.permits.add_permits(self.number);
        }
        while self.done.load(Relaxed) < self.number {
            yield_now().await;
        }
    }
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    cpu_time::cpu_time().expect("Linux provides it")
}

/// Measures how long another thread waits for the lock of the supervisor.
fn locks(figures: &mut Figures, rounds: usize, number: usize) {
    let method = format!(
        "The longest time in ms that `Supervisor::stats` took on another thread meanwhile, with {number} deferred tasks. The median \
         and the lowest number of {rounds} rounds: a thread also waits for the processor."
    );
    figures.table("scale-locks", &method, &["meanwhile", "median", "lowest"]);
    let mut longest: [(&str, Vec<f64>); 5] = [
        "100 ms of nothing",
        "the table grows",
        "`stats()` 1,000 times",
        "`tasks()`",
        "the table shrinks",
    ]
    .map(|name| (name, Vec::new()));
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    for _ in 0..rounds {
        let supervisor = Supervisor::new();
        let layer = BackgroundLayer::with_supervisor(supervisor.clone());
        let mut service = layer.layer(leaving(|| std::future::ready(())));
        let mut bodies = Vec::with_capacity(number);
        let times = [
            slowest(&supervisor, || {
                thread::sleep(Duration::from_millis(100));
            }),
            slowest(&supervisor, || {
                for _ in 0..number {
                    let Ok(response) = runtime.block_on(service.call(Request::new(())));
                    bodies.push(response.into_body());
                }
            }),
            slowest(&supervisor, || {
                for _ in 0..1_000 {
                    black_box(supervisor.stats());
                }
            }),
            slowest(&supervisor, || {
                assert_eq!(supervisor.tasks().len(), number);
            }),
            slowest(&supervisor, || {
                runtime.block_on(async {
                    for body in bodies.drain(..) {
                        drop(body);
                        yield_now().await;
                    }
                    supervisor.idle().await;
                });
            }),
        ];
        for ((_, longest), time) in longest.iter_mut().zip(times) {
            longest.push(time.as_secs_f64() * 1e3);
        }
    }
    for (name, times) in longest {
        let lowest = times.iter().copied().fold(f64::INFINITY, f64::min);
        figures.row(&[
            name.to_owned(),
            format!("{:.3}", median(times)),
            format!("{lowest:.3}"),
        ]);
    }
}

/// Runs `f`, while another thread calls `stats` without a pause. Returns the longest time of a
/// call.
fn slowest(supervisor: &Supervisor, f: impl FnOnce()) -> Duration {
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !has_ended.load(Relaxed) {
                let started = Instant::now();
                black_box(supervisor.stats());
                longest = longest.max(started.elapsed());
            }
            longest
        });
        f();
        has_ended.store(true, Relaxed);
        other.join().expect("it does not panic")
    })
}

/// Measures tasks that compute, on one worker and on two.
fn compute(figures: &mut Figures, rounds: usize) {
    let method = format!(
        "Milliseconds for 200 tasks of one request, each of which computes for about 1 ms. Medians of {rounds} rounds."
    );
    let header = ["way", "1 worker", "2 workers", "ratio"];
    figures.table("scale-workers", &method, &header);
    let ways = [SPAWN, LAYER];
    let mut times = ways.map(|_| [const { Vec::new() }; 2]);
    for _ in 0..rounds {
        for (way, times) in ways.into_iter().zip(&mut times) {
            for (workers, times) in [1, 2].into_iter().zip(times) {
                times.push(computing(way, workers));
            }
        }
    }
    for (way, [one, two]) in ways.into_iter().zip(&times) {
        figures.row(&[
            way.to_owned(),
            format!("{:.1}", median(one.iter().copied())),
            format!("{:.1}", median(two.iter().copied())),
            ratio(two, one),
        ]);
    }
}

fn computing(way: &str, workers: usize) -> f64 {
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .build()
        .expect("a runtime");
    let work = || async {
        let mut number = 1_u64;
        for step in 0..1_000_000_u64 {
            number = black_box(number.wrapping_mul(31).wrapping_add(step));
        }
    };
    runtime.block_on(async {
        let started = Instant::now();
        if way == SPAWN {
            let tasks: JoinSet<()> = (0..200).map(|_| work()).collect();
            tasks.join_all().await;
        } else {
            let supervisor = Supervisor::new();
            let layer = BackgroundLayer::with_supervisor(supervisor.clone());
            let service = service_fn(|request: Request<()>| {
                let tasks = request.background_tasks().expect("the layer is there");
                (0..200).for_each(|_| tasks.add(work()));
                response()
            });
            let Ok(response) = layer.layer(service).call(Request::new(())).await;
            drop(response);
            supervisor.idle().await;
        }
        started.elapsed().as_secs_f64() * 1e3
    })
}
