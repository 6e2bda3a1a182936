//! A separate runtime for tasks: what runs on it, wherever the response ends, and what happens to
//! tasks when it shuts down.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use axum::{Router, routing::get};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, EndKind, Observer, Order, ResponseEnd,
    Supervisor, SupervisorBuilder, Task, TaskContext, defer,
    middleware::ResponseBody,
    report::{TaskInfo, TaskReport, TaskState},
};

use crate::common::{Recorder, Server, soon};

/// A runtime whose threads can be told from others.
fn other_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("tasks")
        .enable_all()
        .build()
        .expect("a runtime")
}

fn of_requests() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("requests")
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Which tasks ran on which threads, in the order of the alphabet.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<String>>>);

impl Threads {
    fn note(&self, task: &str) {
        let line = format!("{task} on {}", thread::current().name().unwrap_or("-"));
        self.0.lock().expect("nothing panics with it").push(line);
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = self.0.lock().expect("nothing panics with it").clone();
        lines.sort();
        lines
    }

    /// Leaves a task of each kind; the second leaves another when it runs.
    fn leave(&self, tasks: &BackgroundTasks) {
        let [future, context, late, blocking] = [(); 4].map(|()| self.clone());
        tasks.add(Task::new(async move {
            future.note("future");
            tokio::time::sleep(Duration::from_millis(1)).await;
            future.note("future, after its sleep");
        }));
        tasks.add(Task::with_context(async move |_| {
            context.note("context");
            defer(async move { late.note("late") })
        }));
        tasks.add(Task::blocking(move || blocking.note("blocking")));
    }
}

const ALL: [&str; 5] = [
    "blocking on tasks",
    "context on tasks",
    "future on tasks",
    "future, after its sleep on tasks",
    "late on tasks",
];

#[test]
fn all_tasks_of_a_server_s_responses_run_on_it() {
    let other = other_runtime();
    for order in [Order::Concurrent, Order::Sequential] {
        let threads = Threads::default();
        let supervisor = Supervisor::builder()
            .runtime(other.handle().clone())
            .order(order)
            .build();
        of_requests().block_on(async {
            let notes = threads.clone();
            let router = Router::new().route(
                "/",
                get(async move |tasks: BackgroundTasks| {
                    notes.leave(&tasks);
                    thread::current().name().unwrap_or("-").to_owned()
                }),
            );
            // The server's own tasks are polled by the workers, this one is not.
            let server = tokio::spawn({
                let supervisor = supervisor.clone();
                async move { Server::router(&supervisor, router).await }
            });
            let server = server.await.expect("it does not panic");
            assert_eq!(
                server.get("/").await,
                (StatusCode::OK, "requests".to_owned())
            );
            soon(supervisor.idle()).await;
        });
        assert_eq!(threads.lines(), ALL);
        assert_eq!(supervisor.stats().succeeded, 4);
    }
}

#[test]
fn without_one_they_run_where_the_requests_are_served() {
    let threads = Threads::default();
    let supervisor = Supervisor::new();
    of_requests().block_on(async {
        let notes = threads.clone();
        let router = Router::new().route(
            "/",
            get(async move |tasks: BackgroundTasks| notes.leave(&tasks)),
        );
        let server = Server::router(&supervisor, router).await;
        assert_eq!(server.get("/").await.0, StatusCode::OK);
        soon(supervisor.idle()).await;
    });
    assert_eq!(
        threads.lines(),
        ALL.map(|line| line.replace("on tasks", "on requests"))
    );
}

/// A response of a service that is driven by hand, here: where there may be no runtime.
fn respond(
    supervisor: &Supervisor,
    leave: impl Fn(&BackgroundTasks),
) -> Response<ResponseBody<String>> {
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        |request: Request<()>| {
            leave(&request.background_tasks().expect("the layer is there"));
            std::future::ready(Ok::<_, Infallible>(Response::new("hello".to_owned())))
        },
    ));
    service
        .oneshot(Request::new(()))
        .now_or_never()
        .expect("it never waits")
        .expect("it can't fail")
}

#[test]
fn they_run_on_it_also_where_the_response_is_dropped_outside_of_any_runtime() {
    let other = other_runtime();
    let threads = Threads::default();
    let supervisor = Supervisor::builder()
        .runtime(other.handle().clone())
        .build();
    assert!(Handle::try_current().is_err(), "there is no runtime here");
    let response = respond(&supervisor, |tasks| threads.leave(tasks));
    assert_eq!(supervisor.stats().deferred, 3);
    drop(response);
    other.block_on(soon(supervisor.idle()));
    assert_eq!(threads.lines(), ALL);

    // Collected inside of one that is gone when the response is dropped.
    let threads = Threads::default();
    let requests = of_requests();
    let response = requests.block_on(async { respond(&supervisor, |tasks| threads.leave(tasks)) });
    drop(requests);
    drop(response);
    other.block_on(soon(supervisor.idle()));
    assert_eq!(threads.lines(), ALL);
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().added()),
        (8, 8)
    );
}

#[test]
fn a_task_that_is_added_outside_of_any_runtime_after_the_end_runs_on_it() {
    let other = other_runtime();
    let threads = Threads::default();
    let supervisor = Supervisor::builder()
        .runtime(other.handle().clone())
        .build();
    let kept = Mutex::new(None);
    drop(respond(&supervisor, |tasks| {
        *kept.lock().expect("nothing panics with it") = Some(tasks.clone());
    }));
    let tasks = kept
        .into_inner()
        .expect("nothing panics with it")
        .expect("the handler kept it");
    let notes = threads.clone();
    tasks.add(async move { notes.note("after the end") });
    other.block_on(soon(supervisor.idle()));
    assert_eq!(threads.lines(), ["after the end on tasks"]);
}

/// A response whose task sends the kind of end that it sees.
fn respond_with_kind_task(
    supervisor: &Supervisor,
) -> (
    Response<ResponseBody<String>>,
    UnboundedReceiver<Option<EndKind>>,
) {
    let (sender, receiver) = unbounded_channel();
    let open = respond(supervisor, |tasks| {
        let sender = sender.clone();
        tasks.add(Task::with_context(async move |cx: TaskContext| {
            sender
                .send(cx.end().map(ResponseEnd::kind))
                .expect("the test waits");
        }));
    });
    (open, receiver)
}

#[test]
fn an_open_response_starts_its_tasks_in_time_although_there_is_no_other_runtime() {
    let other = other_runtime();
    let supervisor = Supervisor::builder()
        .runtime(other.handle().clone())
        .start_within(Duration::from_millis(1))
        .build();
    let (open, mut kinds) = respond_with_kind_task(&supervisor);
    assert_eq!(
        other.block_on(soon(kinds.recv())),
        Some(Some(EndKind::Unfinished))
    );
    drop(open);
}

/// Stays in `on_response_end` until the test lets it go on.
struct Waiting {
    told: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Observer for Waiting {
    fn on_response_end(&self, _: &ResponseEnd) {
        self.told.send(()).expect("the test waits");
        let go_on = self.go_on.lock().expect("nothing panics with it");
        go_on.recv().expect("the test sends");
    }
}

impl Waiting {
    /// Returns an observer, what it sends when it is told, and what lets it go on.
    fn new() -> (Self, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((told, is_told), (go_on, waits)) = (mpsc::channel(), mpsc::channel());
        let waiting = Self {
            told,
            go_on: Mutex::new(waits),
        };
        (waiting, is_told, go_on)
    }
}

/// A runtime whose clock goes on to the next timer when there is nothing to do.
fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

#[test]
fn an_observer_that_blocks_does_not_hold_up_tasks_whose_time_is_over() {
    let other = paused();
    let (observer, is_told, go_on) = Waiting::new();
    let supervisor = Supervisor::builder()
        .runtime(other.handle().clone())
        .start_within(Duration::from_secs(1))
        .observer(observer)
        .build();
    let (open, mut kinds) = respond_with_kind_task(&supervisor);
    let dropping = thread::spawn(move || drop(open));
    is_told.recv().expect("the response ends");
    let kind = other.block_on(soon(kinds.recv()));
    assert_eq!(
        kind,
        Some(Some(EndKind::Interrupted)),
        "the response has ended, so its end is not `Unfinished`"
    );
    go_on.send(()).expect("the observer waits");
    dropping.join().expect("it does not panic");
    assert_eq!(supervisor.stats().to_string(), "1 succeeded");
}

#[test]
fn an_observer_that_blocks_does_not_hold_up_fallbacks_in_a_shutdown() {
    let other = paused();
    let (observer, is_told, go_on) = Waiting::new();
    let supervisor = Supervisor::builder()
        .runtime(other.handle().clone())
        .observer(observer)
        .build();
    let open = respond(&supervisor, |tasks| {
        tasks.add(Task::new(async {}).shutdown_fallback(async {}));
    });
    let dropping = thread::spawn(move || drop(open));
    is_told.recv().expect("the response ends");
    other.block_on(supervisor.shutdown(Duration::from_secs(1)));
    assert_eq!(supervisor.stats().to_string(), "1 fell back");
    go_on.send(()).expect("the observer waits");
    dropping.join().expect("it does not panic");
}

/// A supervisor whose tasks' runtime has gone down.
fn without_its_runtime(builder: SupervisorBuilder) -> Supervisor {
    let other = other_runtime();
    builder.runtime(other.handle().clone()).build()
}

#[tokio::test]
async fn when_it_is_gone_tasks_are_aborted_and_the_server_goes_on() {
    let recorder = Recorder::default();
    let builder = Supervisor::builder().observer(recorder.clone());
    let supervisor = thread::spawn(|| without_its_runtime(builder))
        .join()
        .expect("it does not panic");
    let router = Router::new().route(
        "/",
        get(async |tasks: BackgroundTasks| {
            tasks.add(Task::new(async {}).named("one"));
            tasks.add(Task::blocking(|| {}).named("two"));
            "answer"
        }),
    );
    let server = Server::router(&supervisor, router).await;
    for _ in 0..2 {
        assert_eq!(server.get("/").await, (StatusCode::OK, "answer".to_owned()));
    }
    soon(supervisor.idle()).await;
    assert_eq!(recorder.lines_of("done"), ["done / aborted=2"; 2]);
    assert!(soon(supervisor.shutdown(Duration::ZERO)).await.is_clean());
}

#[test]
fn a_shutdown_on_the_requests_runtime_waits_for_tasks_on_the_other() {
    let other = other_runtime();
    let supervisor = Supervisor::builder()
        .runtime(other.handle().clone())
        .build();
    let report = of_requests().block_on(async {
        drop(respond(&supervisor, |tasks| {
            // It ends once it is told to.
            tasks.add(Task::with_context(async |cx: TaskContext| {
                cx.cancelled().await;
            }));
        }));
        soon(supervisor.shutdown(Duration::ZERO)).await
    });
    assert_eq!(
        (
            report.finished(),
            report.cancelled(),
            report.abandoned().len()
        ),
        (0, 1, 0)
    );
    assert_eq!(supervisor.stats().succeeded, 1);
}

fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Where a task of a response that ends here runs.
fn runs_on(supervisor: &Supervisor, runtime: &Runtime) -> tokio::runtime::Id {
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    let sender = Mutex::new(Some(sender));
    runtime.block_on(async {
        drop(respond(supervisor, |tasks| {
            let sender = sender
                .lock()
                .expect("nothing panics with it")
                .take()
                .expect("there is one request");
            tasks.add(async move { sender.send(Handle::current().id()).expect("the test waits") });
        }));
        soon(supervisor.idle()).await;
    });
    receiver.try_recv().expect("the task has run")
}

#[test]
fn a_thread_that_serves_several_runtimes_runs_tasks_on_that_of_their_request() {
    let supervisor = Supervisor::new();
    let (first, second) = (current_thread(), current_thread());
    for runtime in [&first, &first, &second, &first, &second] {
        assert_eq!(runs_on(&supervisor, runtime), runtime.handle().id());
    }
    drop(second);
    assert_eq!(runs_on(&supervisor, &first), first.handle().id());
    assert_eq!(supervisor.stats().succeeded, 6);
}

#[test]
fn a_runtime_that_goes_down_aborts_its_tasks() {
    let supervisor = Supervisor::new();
    let runtime = current_thread();
    let open = runtime.block_on(async {
        // The first task is spawned, and the next two have a driver. Nothing runs after this.
        drop(respond(&supervisor, |tasks| tasks.add(async {})));
        drop(respond(&supervisor, |tasks| {
            tasks.set_order(Order::Sequential);
            tasks.add(async {});
            tasks.add(async {});
        }));
        respond(&supervisor, |tasks| tasks.add(async {}))
    });
    let stats = supervisor.stats();
    assert_eq!(
        (stats.queued, stats.running, stats.deferred),
        (2, 1, 1),
        "{stats:?}"
    );
    drop(runtime);
    assert_eq!(
        (supervisor.stats().aborted, supervisor.stats().pending()),
        (3, 1)
    );
    drop(open);
    assert_eq!(
        (supervisor.stats().aborted, supervisor.stats().pending()),
        (4, 0)
    );
}

/// Runs on a runtime with one worker, whose worker waits until the returned sender is dropped.
fn with_blocked_worker() -> (Runtime, mpsc::Sender<()>) {
    let runtime = other_runtime();
    let (release, released) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    runtime.spawn(async move {
        starts.send(()).expect("the test waits");
        // It ends when the sender is dropped.
        let _ = released.recv();
    });
    started.recv().expect("the worker starts");
    (runtime, release)
}

#[test]
fn tasks_that_start_together_do_not_share_an_abort() {
    for (count, aborted) in [(3, 0), (3, 1), (3, 2), (100, 99)] {
        let (runtime, release) = with_blocked_worker();
        let supervisor = Supervisor::builder()
            .runtime(runtime.handle().clone())
            .build();
        let handles = Mutex::new(Vec::new());
        let response = respond(&supervisor, |tasks| {
            let task = |_| tasks.try_add(async {}).expect("the supervisor is open");
            handles
                .lock()
                .expect("nothing panics with it")
                .extend((0..count).map(task));
        });
        // All start, and none is polled.
        drop(response);
        assert_eq!(supervisor.stats().running, count);
        let handles = handles.into_inner().expect("nothing panics with it");
        handles[aborted].abort();
        drop(release);
        runtime.block_on(async {
            for (which, handle) in handles.into_iter().enumerate() {
                let expected = if which == aborted {
                    "aborted"
                } else {
                    "succeeded"
                };
                assert_eq!(soon(handle).await.label(), expected, "task {which}");
            }
        });
        current_thread().block_on(soon(supervisor.idle()));
    }
}

#[test]
fn tasks_that_start_together_are_aborted_together_if_the_runtime_goes_down() {
    let (runtime, release) = with_blocked_worker();
    let supervisor = Supervisor::builder()
        .runtime(runtime.handle().clone())
        .build();
    drop(respond(&supervisor, |tasks| {
        for _ in 0..100 {
            tasks.add(pending::<()>());
        }
    }));
    assert_eq!(supervisor.stats().running, 100);
    runtime.shutdown_background();
    drop(release);
    current_thread().block_on(soon(supervisor.idle()));
    assert_eq!(supervisor.stats().aborted, 100);
}

/// Counts reports of tasks that are told wrongly.
#[derive(Default)]
struct Wrong(AtomicUsize);

impl Observer for Wrong {
    fn on_task_start(&self, task: &TaskInfo) {
        if task.state() != TaskState::Running {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn on_task_end(&self, report: &TaskReport) {
        if report.end().is_none() {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

#[test]
fn a_task_of_a_runtime_on_another_thread_counts_as_running_before_it_runs() {
    const RESPONSES: u64 = 5_000;
    let runtime = current_thread();
    let wrong = Arc::new(Wrong::default());
    let supervisor = Supervisor::builder()
        .runtime(runtime.handle().clone())
        .observer(Arc::clone(&wrong))
        .build();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let other = thread::spawn(move || runtime.block_on(stopped));
    for _ in 0..RESPONSES {
        drop(respond(&supervisor, |tasks| tasks.add(async {})));
    }
    current_thread().block_on(soon(supervisor.idle()));
    assert_eq!(supervisor.stats().succeeded, RESPONSES);
    assert_eq!(wrong.0.load(SeqCst), 0);
    stop.send(()).expect("the other thread waits");
    other
        .join()
        .expect("it does not panic")
        .expect("it is told to stop");
}

#[test]
fn nothing_keeps_a_supervisor_or_a_runtime_after_the_last_task() {
    struct Owned(#[expect(dead_code, reason = "it is dropped with the supervisor")] Arc<()>);
    impl Observer for Owned {}
    let (in_runtime, in_supervisor) = (Arc::new(()), Arc::new(()));
    let owned = Arc::clone(&in_runtime);
    let park = move || drop(Arc::clone(&owned));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(park)
        .build()
        .expect("a runtime");
    let supervisor = Supervisor::builder()
        .observer(Owned(Arc::clone(&in_supervisor)))
        .build();
    assert_eq!(runs_on(&supervisor, &runtime), runtime.handle().id());
    drop(supervisor);
    assert_eq!(
        Arc::strong_count(&in_supervisor),
        1,
        "while the runtime is there"
    );
    drop(runtime);
    assert_eq!(Arc::strong_count(&in_runtime), 1);
}
