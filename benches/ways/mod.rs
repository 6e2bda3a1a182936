//! The ways to leave a task for later, in one process on a current-thread runtime, from the call of a service to the end of its
//! last task. A task is a small future that says when it has run.

use std::{
    convert::Infallible,
    env,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use tokio_util::task::TaskTracker;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Observer, ResponseEnd, Supervisor, TaskReport};

use crate::{
    by_hand::{ByHand, Tasks},
    figures::Figures,
    same_promises::{self, SamePromises},
};

pub(crate) const TASKS: [usize; 4] = [0, 1, 4, 16];

/// The first two spawn in the handler. The layer is also measured with what a supervisor can have, and with responses that have
/// headers, as a router's do.
#[cfg(not(feature = "tracing"))]
pub(crate) const WAYS: &[&str] = &[
    "tokio::spawn",
    "TaskTracker::spawn",
    "by hand",
    "hand-written, same promises",
    "layer",
    "by hand, headers",
    "layer, headers",
    "layer, limits",
    "layer, observer",
];
/// The feature changes nothing for the other ways.
#[cfg(feature = "tracing")]
pub(crate) const WAYS: &[&str] = &["layer, no subscriber", "layer, subscriber"];

/// What all ways are measured against: the service alone, which leaves nothing.
pub(crate) const BARE: &str = "bare";
pub(crate) const BARE_WITH_HEADERS: &str = "bare, headers";

/// What the name of a way ends with whose responses have headers.
const HEADERS: &str = ", headers";

/// Requests that count for nothing, at the start.
const WARM_UP: usize = 1_000;

/// Makes so many requests, and tells by how much they have moved what `probe` reads.
pub(crate) fn run(way: &str, tasks: usize, requests: usize, probe: impl Fn() -> u64) -> u64 {
    let done = Arc::new(AtomicUsize::new(0));
    let task = {
        let done = Arc::clone(&done);
        move || {
            let done = Arc::clone(&done);
            async move {
                done.fetch_add(1, Relaxed);
            }
        }
    };
    let (way, headers) = way.strip_suffix(HEADERS).map_or((way, false), |way| (way, true));
    let response = move || std::future::ready(Ok::<_, Infallible>(answer(headers)));
    let driver = Driver { done, tasks, requests, probe };
    match way {
        BARE => driver.run(service_fn(move |_: Request<()>| response())),
        "tokio::spawn" => driver.run(service_fn(move |_: Request<()>| {
            (0..tasks).for_each(|_| drop(tokio::spawn(task())));
            response()
        })),
        "TaskTracker::spawn" => {
            let tracker = TaskTracker::new();
            driver.run(service_fn(move |_: Request<()>| {
                (0..tasks).for_each(|_| drop(tracker.spawn(task())));
                response()
            }))
        }
        "by hand" => driver.run(ByHand(service_fn(move |request: Request<()>| {
            let list = request.extensions().get::<Tasks>().expect("the layer is there");
            (0..tasks).for_each(|_| list.add(task()));
            response()
        }))),
        "hand-written, same promises" => {
            let service = service_fn(move |request: Request<()>| {
                let list = request.extensions().get::<same_promises::Tasks>().expect("the layer is there");
                assert!((0..tasks).all(|_| list.add("task", task())));
                response()
            });
            driver.run(SamePromises::new(service, same_promises::Supervisor::default()))
        }
        layer => {
            let supervisor = match layer {
                "layer, limits" => Supervisor::builder().max_concurrent(1 << 20).max_pending(1 << 20).build(),
                "layer, observer" => Supervisor::builder().observer(Count::default()).build(),
                _ => Supervisor::new(),
            };
            let _guard = (layer == "layer, subscriber").then(|| tracing::subscriber::set_default(Spans));
            driver.run(BackgroundLayer::with(supervisor).layer(service_fn(move |request: Request<()>| {
                let list = request.background_tasks().expect("the layer is there");
                assert!((0..tasks).all(|_| list.add(task())));
                response()
            })))
        }
    }
}

/// What the service answers. It is compiled apart from what is around it, as a handler is.
#[inline(never)]
fn answer(headers: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
    if headers {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("5"));
    }
    response
}

/// Calls a service.
struct Driver<P> {
    done: Arc<AtomicUsize>,
    tasks: usize,
    requests: usize,
    probe: P,
}

impl<P: Fn() -> u64> Driver<P> {
    fn run<S, B>(self, mut service: S) -> u64
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut before = 0;
            for request in 1..=WARM_UP + self.requests {
                if request == WARM_UP + 1 {
                    before = (self.probe)();
                }
                let Ok(service) = service.ready().await;
                let Ok(response) = service.call(Request::new(())).await;
                let mut body = response.into_body();
                while body.frame().await.is_some() {}
                drop(body);
                while self.done.load(Relaxed) < request * self.tasks {
                    tokio::task::yield_now().await;
                }
            }
            (self.probe)() - before
        })
    }
}

/// An observer that wants to know of everything, and does little with it.
#[derive(Default)]
struct Count(AtomicUsize);

impl Observer for Count {
    fn response_ended(&self, end: &ResponseEnd) {
        self.0.fetch_add(usize::from(end.is_complete()), Relaxed);
    }

    fn task_ended(&self, report: &TaskReport) {
        self.0.fetch_add(usize::from(report.ran().is_some()), Relaxed);
    }
}

/// A subscriber that wants all spans and events, and does nothing with them.
struct Spans;

impl tracing::Subscriber for Spans {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Runs this bench in a process of its own, so that no way finds what another has left: a warm allocator, a subscriber.
pub(crate) fn alone(program: &[&str], way: &str, tasks: usize, requests: usize) -> Output {
    let this = env::current_exe().expect("this is a file");
    let this = this.to_str().expect("its name is text");
    let (program, arguments) = program.split_first().map_or((this, vec![]), |(first, rest)| (*first, [rest, &[this]].concat()));
    let output = Command::new(program)
        .args(arguments)
        .args(["one", way, &tasks.to_string(), &requests.to_string()])
        .output()
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What a process of [`alone`] is to measure, if this is one.
pub(crate) fn wanted() -> Option<(String, usize, usize)> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [one, way, tasks, requests] if one == "one" => {
            Some((way.clone(), tasks.parse().expect("a number"), requests.parse().expect("a number")))
        }
        _ => None,
    }
}

/// Prints and notes what each way costs beyond the bare service; `figure` tells it of a way and its tasks.
pub(crate) fn table(figures: &mut Figures, what: &str, figure: impl Fn(&str, usize) -> f64) {
    let bare = figure(BARE, 0);
    let with_headers = figure(BARE_WITH_HEADERS, 0);
    println!("A request of the bare service: {bare:.1} {what}; with headers in the response: {with_headers:.1}.");
    println!("More than that, by number of tasks:\n");
    println!("| {what} | {} |", TASKS.map(|tasks| tasks.to_string()).join(" | "));
    println!("|---|{}", "---:|".repeat(TASKS.len()));
    figures.note(what, BARE, 0, bare);
    for way in WAYS {
        let bare = if way.ends_with(HEADERS) { with_headers } else { bare };
        let more = TASKS.map(|tasks| (tasks, figure(way, tasks) - bare));
        println!("| {way} | {} |", more.map(|(_, more)| format!("{more:.1}")).join(" | "));
        for (tasks, more) in more {
            figures.note(what, way, tasks, more);
        }
    }
    println!();
}
