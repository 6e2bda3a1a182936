//! Every task is counted exactly once, under random mixes of all that can happen to requests, tasks
//! and the supervisor.
//!
//! A script runs on a paused clock. The tasks count for themselves, and after each step these
//! counts must agree with the supervisor's. In the end, every task must have been reported once,
//! and must have run at most once.

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

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use proptest::prelude::*;
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Observer, Order, Refused, ResponseEnd,
    Stats, Supervisor, Task, TaskContext, TaskHandle, When,
    middleware::ResponseBody,
    report::{RequestReport, ShutdownReport, TaskReport},
};

use crate::common::{Script, Step, outcome_counts};

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
    fallback: bool,
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
    Spawn(Leave),
    Remove(usize),
    Abort(usize),
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
    start_within: Option<u64>,
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
    let options = || {
        (
            prop::option::of(1..40u64),
            0..6u8,
            prop::bool::weighted(0.2),
        )
    };
    let simple = (does, options()).prop_map(|(does, (timeout, when, fallback))| Leave {
        does,
        timeout,
        when,
        fallback,
    });
    simple.prop_recursive(2, 4, 1, move |inner| {
        (inner, options()).prop_map(|(inner, (timeout, when, fallback))| Leave {
            does: Does::Add(Box::new(inner)),
            timeout,
            when,
            fallback,
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
        .prop_map(
            |(leaves, order, body, version2, head, status, fails, keep)| Do::Request {
                leaves,
                order,
                body,
                version2,
                head,
                status,
                fails,
                keep,
            },
        );
    prop_oneof![
        6 => request,
        8 => (0..8usize).prop_map(Do::Poll),
        4 => (0..8usize).prop_map(Do::Drop),
        1 => (0..8usize).prop_map(Do::Unwind),
        3 => ((0..8usize), leave()).prop_map(|(request, leave)| Do::Late(request, leave)),
        1 => leave().prop_map(Do::Spawn),
        2 => (0..20usize).prop_map(Do::Remove),
        2 => (0..20usize).prop_map(Do::Abort),
        3 => (1..60u64).prop_map(Do::Advance),
        4 => Just(Do::Run),
        1 => (0..100u64).prop_map(Do::Shutdown),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = || prop::option::of(1..3usize);
    (
        few(),
        few(),
        prop::option::of(1..8usize),
        prop::option::of(5..60u64),
        prop::option::of(5..60u64),
        0..3u8,
    )
        .prop_map(
            |(max_concurrent, max_blocking, max_pending, task_timeout, start_within, order)| {
                Limits {
                    max_concurrent,
                    max_blocking,
                    max_pending,
                    task_timeout,
                    start_within,
                    order,
                }
            },
        )
}

fn order(order: u8) -> Order {
    [Order::Concurrent, Order::Sequential, Order::FailFast][usize::from(order)]
}

/// What the tasks and the observers see.
#[derive(Debug, Default)]
struct Seen {
    added: usize,
    taken: usize,
    requests: usize,
    /// By task: how often its work ran, and how often that came to its own end.
    runs: BTreeMap<usize, (usize, usize)>,
    /// How often the fallback of each task ran.
    fallbacks: BTreeMap<usize, usize>,
    handles: BTreeMap<usize, TaskHandle>,
    refused: BTreeSet<usize>,
    ended: BTreeMap<usize, Vec<&'static str>>,
    blocking: BTreeSet<usize>,
    /// The counts of the reports of requests.
    reported: Vec<Stats>,
    responses: usize,
    shutdowns: usize,
    /// Whether tasks were left to which no limit applies.
    has_unlimited: bool,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    seen: Arc<Mutex<Seen>>,
    running: Arc<AtomicUsize>,
    most_running: Arc<AtomicUsize>,
}

fn number(name: Option<&str>) -> usize {
    name.and_then(|name| name.parse().ok())
        .expect("the script names every task by a number")
}

impl Observer for Counts {
    fn on_response_end(&self, _: &ResponseEnd) {
        self.seen.lock().unwrap().responses += 1;
    }

    fn on_task_end(&self, report: &TaskReport) {
        self.seen
            .lock()
            .unwrap()
            .ended
            .entry(number(report.name()))
            .or_default()
            .push(report.outcome().label());
    }

    fn on_request_done(&self, report: &RequestReport) {
        self.seen.lock().unwrap().reported.push(*report.stats());
    }

    fn on_shutdown(&self, _: &ShutdownReport) {
        self.seen.lock().unwrap().shutdowns += 1;
    }
}

/// Counts an asynchronous task as running, also if it is dropped.
struct Running(Counts);

impl Running {
    fn new(counts: &Counts) -> Self {
        let now = counts.running.fetch_add(1, SeqCst) + 1;
        counts.most_running.fetch_max(now, SeqCst);
        Self(counts.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// Whether the limits of the supervisor apply to a task.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limited {
    Yes,
    No,
}

impl Counts {
    /// Adds a task to a request.
    fn add(&self, tasks: &BackgroundTasks, leave: &Leave, limited: Limited) {
        let number = self.next_number();
        let added = tasks.try_add(self.task(number, leave, limited));
        self.note(number, added);
    }

    /// Adds a task without a request.
    fn spawn(&self, supervisor: &Supervisor, leave: &Leave) {
        let number = self.next_number();
        let added = supervisor.spawn(self.task(number, leave, Limited::No));
        self.note(number, added);
    }

    fn next_number(&self) -> usize {
        let mut seen = self.seen.lock().unwrap();
        seen.added += 1;
        seen.added
    }

    fn note(&self, number: usize, added: Result<TaskHandle, Refused>) {
        let mut seen = self.seen.lock().unwrap();
        match added {
            Ok(handle) => {
                seen.taken += 1;
                seen.handles.insert(number, handle);
            }
            Err(refused) => {
                assert_eq!(refused.into_task().name(), Some(&*number.to_string()));
                seen.refused.insert(number);
            }
        }
    }

    fn begin(&self, number: usize) {
        self.seen.lock().unwrap().runs.entry(number).or_default().0 += 1;
    }

    fn end(&self, number: usize) {
        self.seen.lock().unwrap().runs.entry(number).or_default().1 += 1;
    }

    fn task(&self, number: usize, leave: &Leave, limited: Limited) -> Task {
        let (counts, does) = (self.clone(), leave.does.clone());
        {
            let mut seen = self.seen.lock().unwrap();
            seen.has_unlimited |= leave.fallback || limited == Limited::No;
            if matches!(does, Does::Block) {
                seen.blocking.insert(number);
            }
        }
        let task = match does {
            Does::Block => Task::blocking(move || {
                counts.begin(number);
                counts.end(number);
            }),
            does => Task::with_context(move |cx: TaskContext| async move {
                let _running = (limited == Limited::Yes).then(|| Running::new(&counts));
                counts.begin(number);
                match does {
                    Does::Succeed | Does::Block => {}
                    Does::Fail => {
                        counts.end(number);
                        return Err("failed");
                    }
                    Does::Panic => {
                        counts.end(number);
                        std::panic::resume_unwind(Box::new("panicked"));
                    }
                    Does::Sleep(time) => tokio::time::sleep(Duration::from_millis(time)).await,
                    Does::Hang => std::future::pending().await,
                    Does::HangUntilCancelled => cx.cancelled().await,
                    Does::Add(leave) => {
                        let tasks =
                            BackgroundTasks::current().expect("a task is code of its request");
                        counts.add(&tasks, &leave, limited);
                    }
                }
                counts.end(number);
                Ok(())
            }),
        };
        let task = match leave.timeout {
            Some(timeout) => task.timeout(Duration::from_millis(timeout)),
            None => task,
        };
        let task = if leave.fallback {
            let counts = self.clone();
            task.shutdown_fallback(async move {
                *counts
                    .seen
                    .lock()
                    .unwrap()
                    .fallbacks
                    .entry(number)
                    .or_default() += 1;
            })
        } else {
            task
        };
        let when = match leave.when {
            0 => When::Responded,
            1 => When::Success,
            2 => When::Always,
            3 => When::Complete,
            4 => When::Delivered,
            _ => When::matches(|end| end.status() == Some(StatusCode::OK)),
        };
        task.when(when).named(number.to_string())
    }
}

type ScriptResponse = Response<ResponseBody<Script>>;

/// A request on its way.
struct Exchange {
    tasks: Option<BackgroundTasks>,
    response: Option<Pin<Box<ScriptResponse>>>,
}

/// Calls a service, if it is ready.
fn call(supervisor: &Supervisor, counts: &Counts, request: &Do) -> Option<Exchange> {
    let Do::Request {
        leaves,
        order: chosen,
        body,
        version2,
        head,
        status,
        fails,
        keep,
    } = request.clone()
    else {
        unreachable!("it is called with a request")
    };
    let kept = Arc::new(Mutex::new(None));
    let (counts, keeping) = (counts.clone(), Arc::clone(&kept));
    let seen = Arc::clone(&counts.seen);
    let mut service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<()>| {
            let tasks = request.background_tasks().expect("the layer is there");
            if let Some(chosen) = chosen {
                tasks.set_order(order(chosen));
            }
            for leave in &leaves {
                counts.add(&tasks, leave, Limited::Yes);
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
            std::future::ready(if fails {
                Err("the service fails")
            } else {
                Ok(response)
            })
        },
    ));
    if service
        .poll_ready(&mut Context::from_waker(Waker::noop()))
        .is_pending()
    {
        return None;
    }
    seen.lock().unwrap().requests += 1;
    let request = Request::builder()
        .method(if head { Method::HEAD } else { Method::GET })
        .version(if version2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        });
    let future = service.call(request.body(()).expect("it is one"));
    let mut future = pin!(future);
    let response = match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        std::task::Poll::Ready(Ok(response)) => Some(Box::pin(response)),
        _ => None,
    };
    let tasks = kept.lock().unwrap().take();
    Some(Exchange { tasks, response })
}

/// Polls the body once, as a server does, and drops it when it is over.
fn poll(exchange: &mut Exchange) {
    let Some(response) = &mut exchange.response else {
        return;
    };
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Pin::new(response.body_mut()).poll_frame(&mut Context::from_waker(Waker::noop()))
    }));
    if !matches!(
        polled,
        Ok(std::task::Poll::Pending | std::task::Poll::Ready(Some(Ok(_))))
    ) {
        exchange.response = None;
    }
}

async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

fn check(supervisor: &Supervisor, counts: &Counts, limits: &Limits) {
    let stats = supervisor.stats();
    let seen = counts.seen.lock().unwrap();
    assert_eq!(
        stats.added(),
        seen.taken as u64,
        "every task is in one number: {stats:?}"
    );
    assert_eq!(stats.refused, seen.refused.len() as u64, "{stats:?}");
    assert_eq!(
        stats.pending(),
        supervisor.tasks().len() as u64,
        "{stats:?}"
    );
    assert!(
        seen.runs
            .values()
            .all(|(begun, ended)| *begun == 1 && *ended <= 1),
        "no task runs twice: {:?}",
        seen.runs
    );
    if let (Some((tasks, functions)), false) = (
        limits.max_concurrent.zip(limits.max_blocking),
        seen.has_unlimited,
    ) {
        assert!(stats.running <= (tasks + functions) as u64, "{stats:?}");
    }
    if let Some(most) = limits.max_concurrent {
        assert!(counts.most_running.load(SeqCst) <= most, "{stats:?}");
    }
}

async fn run(limits: Limits, script: Vec<Do>) {
    let counts = Counts::default();
    let mut builder = Supervisor::builder()
        .order(order(limits.order))
        .observer(counts.clone());
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
    if let Some(after) = limits.start_within {
        builder = builder.start_within(Duration::from_millis(after));
    }
    let supervisor = builder.build();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut shutdowns = Vec::new();
    for step in script {
        match step {
            Do::Request { .. } => exchanges.extend(call(&supervisor, &counts, &step)),
            Do::Poll(exchange) => exchanges.get_mut(exchange).into_iter().for_each(poll),
            Do::Drop(exchange) => exchanges
                .get_mut(exchange)
                .into_iter()
                .for_each(|exchange| exchange.response = None),
            Do::Unwind(exchange) => {
                let response = exchanges
                    .get_mut(exchange)
                    .and_then(|exchange| exchange.response.take());
                let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _response = response;
                    std::panic::resume_unwind(Box::new("the script unwinds"));
                }));
                assert!(unwound.is_err());
            }
            Do::Late(exchange, leave) => {
                if let Some(tasks) = exchanges
                    .get(exchange)
                    .and_then(|exchange| exchange.tasks.as_ref())
                {
                    counts.add(tasks, &leave, Limited::Yes);
                }
            }
            Do::Spawn(leave) => counts.spawn(&supervisor, &leave),
            Do::Abort(number) => {
                let handle = counts.seen.lock().unwrap().handles.remove(&number);
                if let Some(handle) = handle {
                    handle.abort();
                    counts.seen.lock().unwrap().handles.insert(number, handle);
                }
            }
            Do::Remove(number) => {
                for tasks in exchanges
                    .iter()
                    .filter_map(|exchange| exchange.tasks.as_ref())
                {
                    tasks.remove(&number.to_string());
                }
            }
            Do::Advance(time) => tokio::time::advance(Duration::from_millis(time)).await,
            Do::Run => settle().await,
            Do::Shutdown(grace) => {
                let supervisor = supervisor.clone();
                shutdowns.push(tokio::spawn(async move {
                    supervisor.shutdown(Duration::from_millis(grace)).await
                }));
                settle().await;
            }
        }
        check(&supervisor, &counts, &limits);
    }
    drop(exchanges);
    let report = supervisor.shutdown(Duration::from_millis(20)).await;
    // A fallback that was added after a shutdown may still run.
    supervisor.idle().await;
    check(&supervisor, &counts, &limits);
    for earlier in shutdowns {
        let earlier = earlier.await.expect("it does not panic");
        assert_eq!(
            format!("{earlier:?}"),
            format!("{report:?}"),
            "all calls return the same"
        );
    }
    check_end(&supervisor, &counts);
}

/// Everything is over. Checks that every task was counted and reported once, by one outcome.
fn check_end(supervisor: &Supervisor, counts: &Counts) {
    let stats = supervisor.stats();
    assert_eq!(
        (stats.pending(), supervisor.open_responses()),
        (0, 0),
        "{stats:?}"
    );
    let mut seen = counts.seen.lock().unwrap();
    assert_eq!(
        (seen.responses, seen.shutdowns),
        (seen.requests, 1),
        "each response ends once, and so does the supervisor"
    );
    let reported: BTreeSet<_> = seen.ended.keys().chain(&seen.refused).copied().collect();
    assert_eq!(
        reported,
        (1..=seen.added).collect(),
        "every task is reported or refused"
    );
    assert_eq!(seen.ended.len(), seen.taken, "and not both");
    let handles = std::mem::take(&mut seen.handles);
    let mut outcomes = BTreeMap::<_, u64>::new();
    for (number, ended) in &seen.ended {
        let [outcome] = ended[..] else {
            panic!("{number} ended as {ended:?}")
        };
        *outcomes.entry(outcome).or_default() += 1;
        let (begun, ended) = seen.runs.get(number).copied().unwrap_or_default();
        let may = match outcome {
            // A function on its own thread may begin and go on after its reported end.
            "timed_out" | "aborted" | "fell_back" if seen.blocking.contains(number) => true,
            "succeeded" | "failed" => begun == 1 && ended == 1,
            "panicked" => begun == 1,
            "skipped" | "removed" => begun == 0,
            "timed_out" => begun == 1 && ended == 0,
            _ => ended == 0,
        };
        assert!(
            may,
            "{number} {outcome}, but began {begun} times and ended {ended} times"
        );
        let fallbacks = seen.fallbacks.get(number).copied().unwrap_or_default();
        assert_eq!(
            fallbacks,
            usize::from(outcome == "fell_back"),
            "{number} {outcome}"
        );
    }
    for (number, handle) in handles {
        let outcome = handle.now_or_never().expect("the task has ended");
        assert_eq!(
            [outcome.label()],
            seen.ended[&number][..],
            "the handle of {number}"
        );
    }
    for (nth, (outcome, number)) in outcome_counts(&stats).into_iter().enumerate() {
        assert_eq!(
            outcomes.get(outcome).copied().unwrap_or_default(),
            number,
            "{outcome}: {stats:?}"
        );
        let reported: u64 = seen
            .reported
            .iter()
            .map(|stats| outcome_counts(stats)[nth].1)
            .sum();
        assert_eq!(
            reported, number,
            "{outcome} in the reports of requests: {stats:?}"
        );
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
