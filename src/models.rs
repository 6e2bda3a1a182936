//! Models of what happens to a response at once: loom runs each in every order that threads could take, on the code that ships.
//!
//! `RUSTC_WORKSPACE_WRAPPER="$PWD/.ci/with-loom" cargo test --features sent --lib models` runs them. The tasks run on a runtime
//! of tokio's that a model's thread drives. What tokio does in itself is taken as given: loom sees its notifications, as
//! `sync.rs` has them, and nothing else of it; so it is with `Arc<Registry>`.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use http::{Method, Request, Response};
use loom::{
    future::block_on,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use tokio::runtime::{self, Runtime};
use tower::{Layer, Service, service_fn};

use crate::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, BatchReport, End, Observer, Order, ResponseBody, ResponseEnd,
    Supervisor, SupervisorBuilder, TaskReport, ledger::Phase, stats::Stats,
};

/// Runs a model that is large in all orders with so many switches away from a thread that could go on: bugs take few.
pub(crate) fn check(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}

/// Runs both at once. The first step is one that loom sees, so that it tries either as the first.
fn race<A: 'static, B: 'static>(one: impl FnOnce() -> A + 'static, other: impl FnOnce() -> B) -> (A, B) {
    let begin = loom::sync::Arc::new(AtomicUsize::new(0));
    let begun = begin.clone();
    let one = thread::spawn(move || {
        begun.fetch_add(1, Ordering::Relaxed);
        one()
    });
    begin.fetch_add(1, Ordering::Relaxed);
    let other = other();
    (one.join().unwrap(), other)
}

/// What the tasks saw themselves, and what an observer was told.
#[derive(Default)]
struct Seen {
    ran: Mutex<Vec<usize>>,
    dropped: Mutex<usize>,
    ends: Mutex<Vec<End>>,
    tasks: Mutex<usize>,
    batched: Mutex<usize>,
}

struct Watch(Arc<Seen>);

impl Observer for Watch {
    fn response_ended(&self, end: &ResponseEnd) {
        self.0.ends.lock().unwrap().push(end.kind());
    }

    fn task_ended(&self, _report: &TaskReport) {
        *self.0.tasks.lock().unwrap() += 1;
    }

    fn batch_ended(&self, report: &BatchReport) {
        *self.0.batched.lock().unwrap() += report.tasks().len();
    }
}

/// A value that a task captures.
struct Captured(Arc<Seen>);

impl Drop for Captured {
    fn drop(&mut self) {
        *self.0.dropped.lock().unwrap() += 1;
    }
}

/// A request through the layer, whose tasks run on a runtime that stands still until it is told to run.
struct Case {
    runtime: Runtime,
    supervisor: Supervisor,
    seen: Arc<Seen>,
    observed: bool,
}

impl Case {
    fn new(observed: bool, set: impl FnOnce(SupervisorBuilder) -> SupervisorBuilder) -> Self {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let seen = Arc::new(Seen::default());
        let mut builder = set(Supervisor::builder().runtime(runtime.handle().clone()));
        if observed {
            builder = builder.observer(Watch(seen.clone()));
        }
        Self { runtime, supervisor: builder.build(), seen, observed }
    }

    /// The response with its registry, at the moment when its head is ready.
    fn respond(&self, method: Method) -> (BackgroundTasks, Response<ResponseBody<String>>) {
        let mut tasks = None;
        let service = service_fn(|request: Request<()>| {
            tasks = request.background_tasks().ok();
            std::future::ready(Ok::<_, Infallible>(Response::new("hello".to_owned())))
        });
        let mut request = Request::new(());
        *request.method_mut() = method;
        let future = BackgroundLayer::with(self.supervisor.clone()).layer(service).call(request);
        let polled = std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()));
        let std::task::Poll::Ready(Ok(response)) = polled else { unreachable!("the service answers at once") };
        (tasks.expect("the layer is there"), response)
    }

    /// Has the runtime run what it has.
    fn run(&self) {
        self.runtime.block_on(async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// All is over: each task ran once, was dropped once and told once, and the response ended once.
    fn settled(self, added: usize, expected: End) {
        self.run();
        let ran = std::mem::take(&mut *self.seen.ran.lock().unwrap());
        let mut each = ran.clone();
        each.sort_unstable();
        assert_eq!(each, (0..added).collect::<Vec<_>>(), "the tasks that ran, of {added}: {:?}", self.supervisor.stats());
        assert_eq!(*self.seen.dropped.lock().unwrap(), added, "a task is let go of once");
        assert_eq!(self.supervisor.stats(), Stats { succeeded: added as u64, ..Stats::default() });
        assert_eq!(self.supervisor.open_responses(), 0);
        if self.observed {
            assert_eq!(*self.seen.ends.lock().unwrap(), [expected], "a response ends once");
            assert_eq!(*self.seen.tasks.lock().unwrap(), added);
            assert_eq!(*self.seen.batched.lock().unwrap(), added);
        }
    }
}

fn task(seen: &Arc<Seen>, index: usize) -> impl Future<Output = ()> + Send + use<> {
    let captured = Captured(seen.clone());
    async move { captured.0.ran.lock().unwrap().push(index) }
}

fn add_against_release(observed: bool, late: usize) {
    loom::model(move || {
        let case = Case::new(observed, |builder| builder);
        let (tasks, response) = case.respond(Method::GET);
        tasks.add(task(&case.seen, 0));
        let seen = case.seen.clone();
        race(move || drop(response), || (1..=late).for_each(|index| assert!(tasks.add(task(&seen, index)))));
        drop(tasks);
        case.settled(1 + late, End::Aborted);
    });
}

#[test]
fn a_task_is_released_or_late() {
    add_against_release(false, 2);
}

#[test]
fn a_task_is_released_or_late_and_told_once() {
    add_against_release(true, 2);
}

#[test]
fn a_task_is_of_the_sequence_or_of_a_new_one() {
    loom::model(|| {
        let case = Case::new(false, |builder| builder.order(Order::Sequential));
        let (tasks, response) = case.respond(Method::GET);
        tasks.add(task(&case.seen, 0));
        drop(response);
        let seen = case.seen.clone();
        race(move || assert!(tasks.add(task(&seen, 1))), || case.run());
        assert_eq!(case.seen.ran.lock().unwrap().first(), Some(&0), "a sequence has an order");
        case.settled(2, End::Aborted);
    });
}

#[test]
fn the_first_task_may_come_with_the_end() {
    // Without one, and without observers, a response takes a shorter way to its end.
    loom::model(|| {
        let case = Case::new(false, |builder| builder);
        let (tasks, response) = case.respond(Method::GET);
        let seen = case.seen.clone();
        race(move || drop(response), move || assert!(tasks.add(task(&seen, 0))));
        case.settled(1, End::Aborted);
    });
}

#[test]
fn the_timer_or_the_end_releases() {
    for observed in [false, true] {
        loom::model(move || {
            let case = Case::new(observed, |builder| builder.release_after(Duration::from_secs(1)));
            let (tasks, response) = case.respond(Method::GET);
            tasks.add(task(&case.seen, 0));
            race(move || drop(response), move || tasks.release_unfinished());
            case.settled(1, End::Aborted);
        });
    }
}

#[test]
fn the_timer_and_the_end_and_a_late_task() {
    check(3, || {
        let case = Case::new(false, |builder| builder.release_after(Duration::from_secs(1)));
        let (tasks, response) = case.respond(Method::GET);
        tasks.add(task(&case.seen, 0));
        let timer = thread::spawn({
            let tasks = tasks.clone();
            move || tasks.release_unfinished()
        });
        let seen = case.seen.clone();
        race(move || drop(response), move || assert!(tasks.add(task(&seen, 1))));
        timer.join().unwrap();
        case.settled(2, End::Aborted);
    });
}

#[test]
fn body_and_head_are_dropped_at_once() {
    for observed in [false, true] {
        loom::model(move || {
            let case = Case::new(observed, |builder| builder);
            let (tasks, response) = case.respond(Method::HEAD);
            tasks.add(task(&case.seen, 0));
            drop(tasks);
            let (head, body) = response.into_parts();
            race(move || drop(body), move || drop(head));
            case.settled(1, End::Complete);
        });
    }
}

#[test]
fn a_shutdown_waits_for_a_response_and_its_task() {
    check(3, || {
        let case = Case::new(false, |builder| builder);
        let (tasks, response) = case.respond(Method::GET);
        let seen = case.seen.clone();
        let supervisor = case.supervisor.clone();
        let shutdown = thread::spawn(move || {
            supervisor.gate().close();
            supervisor.ledger().advance(Phase::Draining);
            block_on(supervisor.drained());
            (supervisor.stats().pending(), supervisor.open_responses())
        });
        // It was let in before, so its task is taken however the shutdown goes.
        assert!(tasks.add(task(&seen, 0)));
        drop((tasks, response));
        case.run();
        assert_eq!(shutdown.join().unwrap(), (0, 0), "a shutdown left something");
        let (after, response) = case.respond(Method::GET);
        assert!(!after.add(async {}), "sealed books took a task");
        drop((after, response));
        assert_eq!(*seen.ran.lock().unwrap(), [0]);
        assert_eq!(case.supervisor.stats(), Stats { succeeded: 1, refused: 1, ..Stats::default() });
    });
}
