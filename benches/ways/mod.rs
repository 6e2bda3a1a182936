//! The ways to leave a task for later, in one process, from the call of a service to the end of its
//! last task. A task is a small future that counts its end. Some tasks wait once before that.

use std::{
    convert::Infallible,
    env,
    hint::black_box,
    mem,
    pin::Pin,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use tokio::{
    runtime::Builder,
    task::{JoinSet, yield_now},
};
use tokio_util::task::TaskTracker;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, Observer, ResponseEnd, Supervisor, report::TaskReport,
};

use crate::{
    plain_layer::{self, PlainLayer},
    same_promises::{self, SamePromises},
};

const PLAIN: &str = "hand-written, plain";
pub(crate) const SAME_PROMISES: &str = "hand-written, same promises";
pub(crate) const LAYER: &str = "layer";

/// The service alone, which leaves no task. All ways are measured against it.
pub(crate) const BARE: &str = "bare";
pub(crate) const BARE_WITH_HEADERS: &str = "bare, headers";

/// The name of a way ends like this if its responses have headers.
const HEADERS: &str = ", headers";

/// The first two ways spawn in the handler.
pub(crate) const WAYS: &[&str] = &[
    "tokio::spawn",
    "TaskTracker::spawn",
    PLAIN,
    SAME_PROMISES,
    LAYER,
];
/// Responses with headers, as the responses of a router, a supervisor with options, and a
/// subscriber that wants all spans.
pub(crate) const MORE_WAYS: &[&str] = &[
    "hand-written, plain, headers",
    "layer, headers",
    "layer, limits",
    "layer, observer",
    #[cfg(feature = "tracing")]
    "layer, subscriber",
];

/// Requests at the start of a run that do not count.
const WARM_UP: usize = 1_000;

/// How tasks behave, and on which runtime they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// Whether each task waits once.
    waits: bool,
    /// A runtime with one worker is a current-thread runtime.
    pub(crate) workers: usize,
}

pub(crate) const CURRENT_THREAD: [Setting; 2] = [
    Setting {
        name: "ready",
        waits: false,
        workers: 1,
    },
    Setting {
        name: "waiting once",
        waits: true,
        workers: 1,
    },
];
pub(crate) const TWO_WORKERS: [Setting; 2] = [
    Setting {
        name: "ready, 2 workers",
        waits: false,
        workers: 2,
    },
    Setting {
        name: "waiting once, 2 workers",
        waits: true,
        workers: 2,
    },
];

impl Setting {
    pub(crate) fn tasks(self) -> &'static [usize] {
        if self.waits {
            &[1, 4, 16]
        } else {
            &[0, 1, 4, 16]
        }
    }

    /// The ways that are measured in this setting.
    fn ways(self) -> Vec<&'static str> {
        let more = if self == CURRENT_THREAD[0] {
            MORE_WAYS
        } else {
            &[]
        };
        [WAYS, more].concat()
    }
}

/// What one process measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Case {
    pub(crate) setting: Setting,
    pub(crate) way: &'static str,
    pub(crate) tasks: usize,
}

impl Case {
    /// The service alone.
    pub(crate) fn bare(self) -> Self {
        let way = if self.has_headers() {
            BARE_WITH_HEADERS
        } else {
            BARE
        };
        Self {
            way,
            tasks: 0,
            ..self
        }
    }

    fn has_headers(self) -> bool {
        self.way.ends_with(HEADERS)
    }
}

/// All cases of a setting. The cases of the bare service come first.
pub(crate) fn cases(setting: Setting) -> Vec<Case> {
    let ways = setting.ways();
    let has_headers = ways.iter().any(|way| way.ends_with(HEADERS));
    let bare = [BARE]
        .into_iter()
        .chain(has_headers.then_some(BARE_WITH_HEADERS));
    let bare = bare.map(|way| Case {
        setting,
        way,
        tasks: 0,
    });
    let others = ways.into_iter().flat_map(|way| {
        setting.tasks().iter().map(move |tasks| Case {
            setting,
            way,
            tasks: *tasks,
        })
    });
    bare.chain(others).collect()
}

/// A kind of task.
trait Work: Copy + Send + Sync + 'static {
    fn work(self) -> impl Future<Output = ()> + Send + 'static;
}

#[derive(Clone, Copy)]
struct Ready;

impl Work for Ready {
    fn work(self) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }
}

#[derive(Clone, Copy)]
struct Waiting;

impl Work for Waiting {
    fn work(self) -> impl Future<Output = ()> + Send + 'static {
        WaitOnce::default()
    }
}

/// A future that wakes its task when it is polled first, and is ready when it is polled again.
#[derive(Default)]
struct WaitOnce {
    waited: bool,
}

impl Future for WaitOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if mem::replace(&mut self.waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Makes tasks that count their end.
#[derive(Clone)]
struct Counted<W> {
    done: Arc<AtomicUsize>,
    work: W,
}

impl<W: Work> Counted<W> {
    fn task(&self) -> impl Future<Output = ()> + Send + use<W> {
        let Self { done, work } = self.clone();
        async move {
            work.work().await;
            done.fetch_add(1, Relaxed);
        }
    }
}

/// Makes requests, and returns how far they moved the counter that `probe` reads.
pub(crate) fn run(case: &Case, requests: usize, probe: impl Fn() -> u64) -> u64 {
    if case.setting.waits {
        run_with(Waiting, case, requests, probe)
    } else {
        run_with(Ready, case, requests, probe)
    }
}

fn run_with<W: Work>(work: W, case: &Case, requests: usize, probe: impl Fn() -> u64) -> u64 {
    let tasks = case.tasks;
    let headers = case.has_headers();
    let way = case.way.strip_suffix(HEADERS).unwrap_or(case.way);
    let response = move || std::future::ready(Ok::<_, Infallible>(answer(headers)));
    let driver = Driver {
        work,
        tasks,
        requests,
        workers: case.setting.workers,
        probe,
    };
    match way {
        BARE => driver.run(|_| service_fn(move |_: Request<()>| response())),
        "tokio::spawn" => driver.run(|counted| {
            service_fn(move |_: Request<()>| {
                (0..tasks).for_each(|_| drop(tokio::spawn(counted.task())));
                response()
            })
        }),
        "TaskTracker::spawn" => {
            let tracker = TaskTracker::new();
            driver.run(|counted| {
                let tracker = tracker.clone();
                service_fn(move |_: Request<()>| {
                    (0..tasks).for_each(|_| drop(tracker.spawn(counted.task())));
                    response()
                })
            })
        }
        PLAIN => driver.run(|counted| {
            PlainLayer(service_fn(move |request: Request<()>| {
                let list = request
                    .extensions()
                    .get::<plain_layer::Tasks>()
                    .expect("the layer is there");
                (0..tasks).for_each(|_| list.add(counted.task()));
                response()
            }))
        }),
        SAME_PROMISES => {
            let supervisor = same_promises::Supervisor::default();
            driver.run(|counted| {
                let service = service_fn(move |request: Request<()>| {
                    let list = request
                        .extensions()
                        .get::<same_promises::Tasks>()
                        .expect("the layer is there");
                    assert!((0..tasks).all(|_| list.add("task", counted.task())));
                    response()
                });
                SamePromises::new(service, supervisor.clone())
            })
        }
        layer => {
            let supervisor = match layer {
                "layer, limits" => Supervisor::builder()
                    .max_concurrent(1 << 20)
                    .max_pending(1 << 20)
                    .build(),
                "layer, observer" => Supervisor::builder().observer(Count::default()).build(),
                _ => Supervisor::new(),
            };
            let layer = BackgroundLayer::with_supervisor(supervisor);
            let _guard =
                (case.way == "layer, subscriber").then(|| tracing::subscriber::set_default(Spans));
            driver.run(|counted| {
                layer.layer(service_fn(move |request: Request<()>| {
                    let list = request.background_tasks().expect("the layer is there");
                    for _ in 0..tasks {
                        list.add(counted.task());
                    }
                    response()
                }))
            })
        }
    }
}

/// The response of the service. It is compiled apart from the code around it, as a handler is.
#[inline(never)]
fn answer(headers: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
    if headers {
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("5"));
    }
    response
}

/// Makes a caller for each worker, and lets the callers call their services.
struct Driver<W, P> {
    work: W,
    tasks: usize,
    requests: usize,
    workers: usize,
    probe: P,
}

impl<W: Work, P: Fn() -> u64> Driver<W, P> {
    fn run<S, B>(self, service: impl Fn(Counted<W>) -> S) -> u64
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible, Future: Send>
            + Send
            + 'static,
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let caller = || {
            let counted = Counted {
                done: Arc::default(),
                work: self.work,
            };
            Caller {
                done: Arc::clone(&counted.done),
                service: service(counted),
                tasks: self.tasks,
                calls: 0,
            }
        };
        if self.workers == 1 {
            return Builder::new_current_thread()
                .build()
                .expect("a runtime")
                .block_on(async {
                    let caller = caller().call(WARM_UP).await;
                    let before = (self.probe)();
                    caller.call(self.requests).await;
                    (self.probe)() - before
                });
        }
        Builder::new_multi_thread()
            .worker_threads(self.workers)
            .build()
            .expect("a runtime")
            .block_on(async {
                let callers = (0..self.workers).map(|_| caller()).collect();
                let callers = together(callers, WARM_UP).await;
                let before = (self.probe)();
                together(callers, self.requests / self.workers).await;
                (self.probe)() - before
            })
    }
}

/// Lets each caller make this many calls in a tokio task of its own.
async fn together<S, B>(callers: Vec<Caller<S>>, calls: usize) -> Vec<Caller<S>>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible, Future: Send>
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let calls = callers.into_iter().map(|caller| caller.call(calls));
    calls.collect::<JoinSet<_>>().join_all().await
}

struct Caller<S> {
    service: S,
    done: Arc<AtomicUsize>,
    tasks: usize,
    calls: usize,
}

impl<S, B> Caller<S>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
{
    /// Makes this many calls. Each call comes after the last task of the call before.
    async fn call(mut self, calls: usize) -> Self {
        for _ in 0..calls {
            self.calls += 1;
            let Ok(service) = self.service.ready().await;
            let Ok(response) = service.call(Request::new(())).await;
            let mut body = response.into_body();
            while body.frame().await.is_some() {}
            drop(body);
            while self.done.load(Relaxed) < self.calls * self.tasks {
                yield_now().await;
            }
        }
        self
    }
}

/// An observer that counts what it sees.
#[derive(Default)]
struct Count(AtomicUsize);

impl Observer for Count {
    fn on_response_end(&self, end: &ResponseEnd) {
        self.0.fetch_add(usize::from(end.is_complete()), Relaxed);
    }

    fn on_task_end(&self, report: &TaskReport) {
        self.0
            .fetch_add(usize::from(report.ran().is_some()), Relaxed);
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

/// Runs a case in a process of its own, so that no case finds what another one left: a warm
/// allocator, a subscriber.
///
/// The heap of the process starts with `padding` times 16 bytes. What the allocator does for a
/// tokio task depends on where the task lies: the same code takes up to 5 % more instructions or
/// fewer. So all figures are of several paddings.
pub(crate) fn alone(program: &[&str], case: &Case, requests: usize, padding: usize) -> Output {
    let this = env::current_exe().expect("this is a file");
    let this = this.to_str().expect("its name is text");
    let (program, arguments) = program
        .split_first()
        .map_or((this, vec![]), |(first, rest)| {
            (*first, [rest, &[this]].concat())
        });
    let output = Command::new(program)
        .args(arguments)
        .args([
            "one",
            case.setting.name,
            case.way,
            &case.tasks.to_string(),
            &requests.to_string(),
            &padding.to_string(),
        ])
        .output()
        .unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The case and the number of requests that [`alone`] gave to this process, if it started this
/// process. The padding lies in the heap then.
pub(crate) fn wanted() -> Option<(Case, usize)> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [one, setting, way, tasks, requests, padding] = &arguments[..] else {
        return None;
    };
    assert_eq!(one, "one");
    let padding = padding.parse::<usize>().expect("a number") * 16;
    black_box(Vec::<u8>::with_capacity(padding)).leak();
    let all = [CURRENT_THREAD, TWO_WORKERS]
        .concat()
        .into_iter()
        .flat_map(cases);
    let mut wanted = all.filter(|case| {
        case.setting.name == setting && case.way == way && case.tasks.to_string() == *tasks
    });
    Some((
        wanted.next().expect("a case"),
        requests.parse().expect("a number"),
    ))
}
