//! The accounting rule under random mixes of all that can happen to requests, tasks and the supervisor.
//!
//! A script is run by hand on a paused clock. The tasks keep books of their own, and after each step these must agree with
//! the supervisor's; in the end every task must have been told of once, and have run at most once.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use proptest::prelude::*;
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, BatchReport, Observer, Order, Outcome, ResponseBody, ResponseEnd,
    RunningTask, ShutdownReport, Supervisor, Task, TaskContext, TaskReport, When,
};

use support::{Script, Step};

/// What a task does.
#[derive(Debug, Clone)]
enum Does {
    Succeed,
    Fail,
    Panic,
    Sleep(u64),
    Hang,
    HangUntilCancelled,
    Block,
    Add(Box<Leave>),
}

/// A task, as a request leaves it.
#[derive(Debug, Clone)]
struct Leave {
    does: Does,
    timeout: Option<u64>,
    when: u8,
}

/// What a response's body does.
#[derive(Debug, Clone)]
enum Frame {
    Data,
    Trailers,
    Error,
    Panic,
    Hang,
}

#[derive(Debug, Clone)]
enum Do {
    Request {
        leaves: Vec<Leave>,
        order: Option<u8>,
        body: Vec<Frame>,
        version2: bool,
        head: bool,
        status: u16,
        fails: bool,
        keep: bool,
    },
    Poll(usize),
    Drop(usize),
    Unwind(usize),
    Late(usize, Leave),
    Remove(usize),
    Advance(u64),
    Run,
    Shutdown(u64),
}

#[derive(Debug, Clone)]
struct Limits {
    max_concurrent: Option<usize>,
    max_blocking: Option<usize>,
    max_pending: Option<usize>,
    task_timeout: Option<u64>,
    release_after: Option<u64>,
    order: u8,
}

fn leave() -> impl Strategy<Value = Leave> {
    let does = prop_oneof![
        4 => Just(Does::Succeed),
        2 => Just(Does::Fail),
        2 => Just(Does::Panic),
        3 => (1..50u64).prop_map(Does::Sleep),
        1 => Just(Does::Hang),
        1 => Just(Does::HangUntilCancelled),
        1 => Just(Does::Block),
    ];
    let simple = (does, prop::option::of(1..40u64), 0..4u8).prop_map(|(does, timeout, when)| Leave { does, timeout, when });
    simple.prop_recursive(2, 4, 1, |inner| {
        (inner, prop::option::of(1..40u64), 0..4u8).prop_map(|(inner, timeout, when)| Leave {
            does: Does::Add(Box::new(inner)),
            timeout,
            when,
        })
    })
}

fn step() -> impl Strategy<Value = Do> {
    let frame = prop_oneof![
        5 => Just(Frame::Data),
        1 => Just(Frame::Trailers),
        1 => Just(Frame::Error),
        1 => Just(Frame::Panic),
        1 => Just(Frame::Hang),
    ];
    let status = prop_oneof![4 => Just(200), 1 => Just(204), 1 => Just(500)];
    let request = (
        prop::collection::vec(leave(), 0..4),
        prop::option::weighted(0.3, 0..3u8),
        prop::collection::vec(frame, 0..4),
        any::<bool>(),
        prop::bool::weighted(0.2),
        status,
        prop::bool::weighted(0.1),
        any::<bool>(),
    )
        .prop_map(|(leaves, order, body, version2, head, status, fails, keep)| Do::Request {
            leaves,
            order,
            body,
            version2,
            head,
            status,
            fails,
            keep,
        });
    prop_oneof![
        6 => request,
        8 => (0..8usize).prop_map(Do::Poll),
        4 => (0..8usize).prop_map(Do::Drop),
        1 => (0..8usize).prop_map(Do::Unwind),
        3 => ((0..8usize), leave()).prop_map(|(request, leave)| Do::Late(request, leave)),
        2 => (0..20usize).prop_map(Do::Remove),
        3 => (1..60u64).prop_map(Do::Advance),
        4 => Just(Do::Run),
        1 => (0..100u64).prop_map(Do::Shutdown),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = || prop::option::of(1..3usize);
    (few(), few(), prop::option::of(1..8usize), prop::option::of(5..60u64), prop::option::of(5..60u64), 0..3u8).prop_map(
        |(max_concurrent, max_blocking, max_pending, task_timeout, release_after, order)| Limits {
            max_concurrent,
            max_blocking,
            max_pending,
            task_timeout,
            release_after,
            order,
        },
    )
}

fn order(order: u8) -> Order {
    [Order::Concurrent, Order::Sequential, Order::FailFast][usize::from(order)]
}

/// What the tasks and the observers tell by themselves.
#[derive(Debug, Default)]
struct Told {
    added: usize,
    taken: usize,
    requests: usize,
    /// By task: how often it ran, and how often it came to its own end.
    runs: BTreeMap<usize, (usize, usize)>,
    ended: BTreeMap<usize, Vec<&'static str>>,
    blocking: BTreeSet<usize>,
    batched: Vec<usize>,
    responses: usize,
    shutdowns: usize,
}

#[derive(Debug, Clone, Default)]
struct Books {
    told: Arc<Mutex<Told>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
}

fn number(name: Option<&str>) -> usize {
    name.and_then(|name| name.parse().ok()).expect("the script names every task by a number")
}

impl Observer for Books {
    fn response_ended(&self, _: &ResponseEnd) {
        self.told.lock().unwrap().responses += 1;
    }

    fn task_started(&self, _: &RunningTask) {}

    fn task_ended(&self, report: &TaskReport) {
        self.told.lock().unwrap().ended.entry(number(report.name())).or_default().push(report.outcome().label());
    }

    fn batch_ended(&self, report: &BatchReport) {
        let tasks = report.tasks().iter().map(|task| number(task.name())).collect::<Vec<_>>();
        self.told.lock().unwrap().batched.extend(tasks);
    }

    fn shutdown(&self, _: &ShutdownReport) {
        self.told.lock().unwrap().shutdowns += 1;
    }
}

/// Counts an asynchronous task as running, also where it is dropped.
struct Running(Books);

impl Running {
    fn new(books: &Books) -> Self {
        let now = books.running.fetch_add(1, SeqCst) + 1;
        books.most_running.fetch_max(now, SeqCst);
        Self(books.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Books {
    fn add(&self, tasks: &BackgroundTasks, leave: &Leave) {
        let number = {
            let mut told = self.told.lock().unwrap();
            told.added += 1;
            told.added
        };
        let taken = tasks.add(self.task(number, leave));
        self.told.lock().unwrap().taken += usize::from(taken);
    }

    fn begin(&self, number: usize) {
        self.told.lock().unwrap().runs.entry(number).or_default().0 += 1;
    }

    fn end(&self, number: usize) {
        self.told.lock().unwrap().runs.entry(number).or_default().1 += 1;
    }

    fn task(&self, number: usize, leave: &Leave) -> Task {
        let (books, does) = (self.clone(), leave.does.clone());
        if matches!(does, Does::Block) {
            self.told.lock().unwrap().blocking.insert(number);
        }
        let task = match does {
            Does::Block => Task::blocking(move |_| {
                books.begin(number);
                books.end(number);
            }),
            does => Task::with_context(move |cx: TaskContext| async move {
                let _running = Running::new(&books);
                books.begin(number);
                match does {
                    Does::Succeed | Does::Block => {}
                    Does::Fail => {
                        books.end(number);
                        return Err("failed");
                    }
                    Does::Panic => {
                        books.end(number);
                        std::panic::panic_any("panicked");
                    }
                    Does::Sleep(time) => tokio::time::sleep(Duration::from_millis(time)).await,
                    Does::Hang => std::future::pending().await,
                    Does::HangUntilCancelled => cx.cancelled().await,
                    Does::Add(leave) => books.add(&cx.tasks(), &leave),
                }
                books.end(number);
                Ok(())
            }),
        };
        let task = match leave.timeout {
            Some(timeout) => task.timeout(Duration::from_millis(timeout)),
            None => task,
        };
        let when = match leave.when {
            0 => When::Responded,
            1 => When::Success,
            2 => When::Always,
            _ => When::matches(|end| end.status() == Some(StatusCode::OK)),
        };
        task.when(when).named(number.to_string())
    }
}

type Response_ = Response<ResponseBody<Script>>;

/// A request on its way.
struct Exchange {
    tasks: Option<BackgroundTasks>,
    response: Option<Pin<Box<Response_>>>,
}

/// Calls a service, if it is ready.
fn call(supervisor: &Supervisor, books: &Books, request: &Do) -> Option<Exchange> {
    let Do::Request { leaves, order: chosen, body, version2, head, status, fails, keep } = request.clone() else {
        unreachable!("it is called with a request")
    };
    let kept = Arc::new(Mutex::new(None));
    let (books, keeping) = (books.clone(), Arc::clone(&kept));
    let told = Arc::clone(&books.told);
    let mut service = BackgroundLayer::with(supervisor.clone()).layer(service_fn(move |request: Request<()>| {
        let tasks = request.background_tasks().expect("the layer is there");
        if let Some(chosen) = chosen {
            tasks.order(order(chosen));
        }
        for leave in &leaves {
            books.add(&tasks, leave);
        }
        let script = body.iter().map(|frame| match frame {
            Frame::Data => Step::data("data"),
            Frame::Trailers => Step::trailer("grpc-status", "0"),
            Frame::Error => Step::Error,
            Frame::Panic => Step::Panic,
            Frame::Hang => Step::Hang,
        });
        let mut response = Response::new(Script::new(script.collect::<Vec<_>>()).tells_end());
        *response.status_mut() = StatusCode::from_u16(status).expect("it is one");
        if keep {
            *keeping.lock().unwrap() = Some(tasks);
        }
        std::future::ready(if fails { Err("the service fails") } else { Ok(response) })
    }));
    if service.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending() {
        return None;
    }
    told.lock().unwrap().requests += 1;
    let request = Request::builder().method(if head { Method::HEAD } else { Method::GET }).version(if version2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    });
    let future = service.call(request.body(()).expect("it is one"));
    let mut future = pin!(future);
    let response = match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(Ok(response)) => Some(Box::pin(response)),
        _ => None,
    };
    let tasks = kept.lock().unwrap().take();
    Some(Exchange { tasks, response })
}

/// Polls the body once, as a server does, and drops it when it is over.
fn poll(exchange: &mut Exchange) {
    let Some(response) = &mut exchange.response else { return };
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Pin::new(response.body_mut()).poll_frame(&mut Context::from_waker(Waker::noop()))
    }));
    if !matches!(polled, Ok(std::task::Poll::Pending | std::task::Poll::Ready(Some(Ok(_))))) {
        exchange.response = None;
    }
}

async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

fn check(supervisor: &Supervisor, books: &Books, limits: &Limits) {
    let stats = supervisor.stats();
    let told = books.told.lock().unwrap();
    assert_eq!(stats.added(), told.added as u64, "every task is in one figure: {stats:?}");
    assert_eq!(stats.refused, (told.added - told.taken) as u64, "{stats:?}");
    assert_eq!(stats.waiting + stats.running, supervisor.running().len() as u64, "{stats:?}");
    assert!(told.runs.values().all(|(begun, ended)| *begun == 1 && *ended <= 1), "no task runs twice: {:?}", told.runs);
    if let Some((tasks, functions)) = limits.max_concurrent.zip(limits.max_blocking) {
        assert!(stats.running <= (tasks + functions) as u64, "{stats:?}");
    }
    if let Some(most) = limits.max_concurrent {
        assert!(books.most_running.load(SeqCst) <= most, "{stats:?}");
    }
}

async fn run(limits: Limits, script: Vec<Do>) {
    let books = Books::default();
    let mut builder = Supervisor::builder().order(order(limits.order)).observer(books.clone());
    if let Some(tasks) = limits.max_concurrent {
        builder = builder.max_concurrent(tasks);
    }
    if let Some(tasks) = limits.max_blocking {
        builder = builder.max_blocking(tasks);
    }
    if let Some(tasks) = limits.max_pending {
        builder = builder.max_pending(tasks);
    }
    if let Some(timeout) = limits.task_timeout {
        builder = builder.task_timeout(Duration::from_millis(timeout));
    }
    if let Some(after) = limits.release_after {
        builder = builder.release_after(Duration::from_millis(after));
    }
    let supervisor = builder.build();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut shutdowns = Vec::new();
    for step in script {
        match step {
            Do::Request { .. } => exchanges.extend(call(&supervisor, &books, &step)),
            Do::Poll(exchange) => exchanges.get_mut(exchange).into_iter().for_each(poll),
            Do::Drop(exchange) => exchanges.get_mut(exchange).into_iter().for_each(|exchange| exchange.response = None),
            Do::Unwind(exchange) => {
                let response = exchanges.get_mut(exchange).and_then(|exchange| exchange.response.take());
                let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _response = response;
                    std::panic::panic_any("the script unwinds");
                }));
                assert!(unwound.is_err());
            }
            Do::Late(exchange, leave) => {
                if let Some(tasks) = exchanges.get(exchange).and_then(|exchange| exchange.tasks.as_ref()) {
                    books.add(tasks, &leave);
                }
            }
            Do::Remove(number) => {
                for tasks in exchanges.iter().filter_map(|exchange| exchange.tasks.as_ref()) {
                    tasks.remove(&number.to_string());
                }
            }
            Do::Advance(time) => tokio::time::advance(Duration::from_millis(time)).await,
            Do::Run => settle().await,
            Do::Shutdown(grace) => {
                let supervisor = supervisor.clone();
                shutdowns.push(tokio::spawn(async move { supervisor.shutdown(Duration::from_millis(grace)).await }));
                settle().await;
            }
        }
        check(&supervisor, &books, &limits);
    }
    drop(exchanges);
    let report = supervisor.shutdown(Duration::from_millis(20)).await;
    check(&supervisor, &books, &limits);
    for earlier in shutdowns {
        let earlier = earlier.await.expect("it does not panic");
        assert_eq!(format!("{earlier:?}"), format!("{report:?}"), "all calls tell the same");
    }
    check_end(&supervisor, &books);
}

/// Everything is over: the books are closed, and every task was told of.
fn check_end(supervisor: &Supervisor, books: &Books) {
    let stats = supervisor.stats();
    assert_eq!((stats.pending(), supervisor.open_responses()), (0, 0), "{stats:?}");
    let told = books.told.lock().unwrap();
    assert_eq!((told.responses, told.shutdowns), (told.requests, 1), "each response ends once, and so does the supervisor");
    assert_eq!(told.ended.keys().copied().collect::<BTreeSet<_>>(), (1..=told.added).collect(), "every task is told of");
    let mut outcomes = BTreeMap::<_, u64>::new();
    let mut batched = Vec::new();
    for (number, ended) in &told.ended {
        let [outcome] = ended[..] else { panic!("{number} ended as {ended:?}") };
        *outcomes.entry(outcome).or_default() += 1;
        if outcome != Outcome::Refused.label() {
            batched.push(*number);
        }
        let (begun, ended) = told.runs.get(number).copied().unwrap_or_default();
        let may = match outcome {
            // A function on a thread of its own may begin and go on beyond the end that is told of it.
            "timed_out" | "cancelled" if told.blocking.contains(number) => true,
            "succeeded" | "failed" => begun == 1 && ended == 1,
            "panicked" => begun == 1,
            "skipped" | "refused" => begun == 0,
            "timed_out" => begun == 1 && ended == 0,
            _ => ended == 0,
        };
        assert!(may, "{number} {outcome}, but began {begun} times and ended {ended} times");
    }
    let mut in_batches = told.batched.clone();
    in_batches.sort_unstable();
    assert_eq!(in_batches, batched, "every task is in one batch");
    for (outcome, figure) in [
        ("succeeded", stats.succeeded),
        ("failed", stats.failed),
        ("panicked", stats.panicked),
        ("timed_out", stats.timed_out),
        ("cancelled", stats.cancelled),
        ("skipped", stats.skipped),
        ("refused", stats.refused),
    ] {
        assert_eq!(outcomes.get(outcome).copied().unwrap_or_default(), figure, "{outcome}: {stats:?}");
    }
}

// `PROPTEST_CASES` asks for more than the usual 256 scripts.
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_task_ends_in_one_counted_way(limits in limits(), script in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(run(limits, script));
    }
}
