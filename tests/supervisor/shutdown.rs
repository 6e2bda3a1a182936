//! A shutdown waits for open responses and their tasks. Then it cancels the tasks, then it drops
//! what is left, and reports all of it. Later tasks are refused, and every task is counted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_test::{assert_pending, task::spawn};
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, Observer, Order, Supervisor, Task, When, defer,
    report::{ShutdownReport, TaskInfo, TaskReport, TaskState},
};

use crate::common::{Call, Entry, Events, Script, Server, Step, answered, soon, until};

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);

/// A shutdown that is awaited by a tokio task of its own.
fn shut_down(supervisor: &Supervisor, grace: Duration) -> JoinHandle<ShutdownReport> {
    let supervisor = supervisor.clone();
    tokio::spawn(async move { supervisor.shutdown(grace).await })
}

/// Finished, cancelled, abandoned, open responses.
fn counts(report: &ShutdownReport) -> (u64, u64, usize, usize) {
    (
        report.finished(),
        report.cancelled(),
        report.abandoned().len(),
        report.open_responses(),
    )
}

fn names(tasks: &[TaskInfo]) -> Vec<&str> {
    tasks.iter().map(|task| task.name().unwrap_or("")).collect()
}

fn must_not_start() -> impl Future<Output = ()> + Send {
    std::future::poll_fn(|_| panic!("the task must not start"))
}

/// Notes when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Notes what an observer is told.
#[derive(Default)]
struct Told {
    ended: Mutex<Vec<String>>,
    shutdowns: Mutex<Vec<ShutdownReport>>,
}

impl Told {
    fn ended(&self) -> Vec<String> {
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn shutdowns(&self) -> Vec<ShutdownReport> {
        self.shutdowns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Observer for Told {
    fn on_task_end(&self, report: &TaskReport) {
        let line = format!("{} {}", report.name().unwrap_or(""), report.outcome());
        self.ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    fn on_shutdown(&self, report: &ShutdownReport) {
        self.shutdowns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(report.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_supervisor_is_shut_down_at_once() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/before").await;
    tasks.add(async {});
    supervisor.idle().await;

    let started = Instant::now();
    let report = supervisor.shutdown(GRACE).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert!(report.is_clean());
    assert_eq!(
        counts(&report),
        (0, 0, 0, 0),
        "what had ended before is not of the shutdown"
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_response_and_its_tasks_are_waited_for() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/open");
    let tasks = call.tasks.clone();
    tasks.add(tokio::time::sleep(SECOND));
    let answer = call.answer().await;

    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());
    assert!(
        tasks
            .try_add(async { defer(tokio::time::sleep(SECOND)) })
            .is_ok(),
        "the response is open: its tasks are taken"
    );
    assert_eq!(
        (supervisor.open_responses(), supervisor.stats().deferred),
        (1, 2)
    );
    assert_pending!(shutdown.poll());

    drop(answer);
    assert_eq!(supervisor.open_responses(), 0);
    let report = shutdown.await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(counts(&report), (3, 0, 0, 0));
    assert_eq!(supervisor.stats().succeeded, 3);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_still_runs_may_add_its_tasks() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/slow");
    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());

    tokio::time::advance(SECOND).await;
    assert!(call.tasks.try_add(tokio::time::sleep(SECOND)).is_ok());
    assert_pending!(shutdown.poll());
    call.finish().await;
    let report = shutdown.await;
    assert_eq!(counts(&report), (1, 0, 0, 0));
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_before_it_is_polled_and_ends_when_it_is_dropped() {
    let supervisor = Supervisor::new();
    let mut service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |_: Request<()>| Ok::<_, ()>(Response::new(Full::<Bytes>::default())),
    ));
    let unpolled = service.call(Request::new(()));
    let call = Call::new(&supervisor, "/");
    call.tasks.add(Task::new(async {}).when(When::Always));
    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());
    assert_eq!(supervisor.open_responses(), 2);

    drop(unpolled);
    assert_pending!(shutdown.poll());
    call.cancel().await;
    assert_eq!(supervisor.open_responses(), 0);
    let report = shutdown.await;
    assert_eq!(counts(&report), (1, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn tasks_are_told_when_the_grace_is_over_and_not_before() {
    let supervisor = Supervisor::builder().abort_after(5 * SECOND).build();
    let tasks = answered(&supervisor, "/").await;
    let start = Instant::now();
    let (told, told_at) = oneshot::channel();
    tasks.add(Task::with_context(move |cx| async move {
        tokio::time::sleep(9 * SECOND).await;
        assert!(!cx.is_cancelled(), "the grace is not over");
        cx.cancelled().await;
        assert!(cx.is_cancelled());
        told.send(start.elapsed()).expect("the test is there");
        // Its last steps take some of the time that it has for them.
        tokio::time::sleep(SECOND).await;
        Err::<(), _>("stopped half way")
    }));
    tasks.add(tokio::time::sleep(SECOND));

    let report = supervisor.shutdown(GRACE).await;
    let told_at = told_at.await.expect("the task was told");
    assert!((GRACE..GRACE + SECOND).contains(&told_at), "{told_at:?}");
    assert_eq!(counts(&report), (1, 1, 0, 0));
    assert!(!report.is_clean());
    assert_eq!(
        report.to_string(),
        "incomplete shutdown, tasks finished in the grace: 1, cancelled tasks: 1, open \
         responses: 0, aborted tasks: 0"
    );
    let stats = supervisor.stats();
    assert_eq!(stats.to_string(), "1 succeeded, 1 failed");
    assert_eq!(
        (stats.succeeded, stats.failed, stats.aborted),
        (1, 1, 0),
        "it ended by itself: {stats:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_succeeds_leaves_the_shutdown_clean() {
    let supervisor = Supervisor::new();
    let never = || Task::new(std::future::pending::<()>());
    let tasks = answered(&supervisor, "/").await;
    tasks.add(never().shutdown_fallback(async {}));
    let report = supervisor.shutdown(GRACE).await;
    assert_eq!((counts(&report), report.fell_back()), ((0, 0, 0, 0), 1));
    assert!(report.is_clean());
    assert_eq!(
        report.to_string(),
        "clean shutdown, tasks finished in the grace: 0, tasks that fell back: 1"
    );

    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(never().shutdown_fallback(async { Err::<(), _>("the disk is full") }));
    let report = supervisor.shutdown(GRACE).await;
    assert_eq!((counts(&report), report.fell_back()), ((0, 1, 0, 0), 0));
    assert!(!report.is_clean(), "the work is lost");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_heed_it_is_dropped_and_reported() {
    let told = Arc::new(Told::default());
    let supervisor = Supervisor::builder()
        .max_concurrent(1)
        .abort_after(5 * SECOND)
        .observer(Arc::clone(&told))
        .build();
    let dropped = Arc::new(AtomicUsize::new(0));
    let never = |name| {
        let guard = Dropped(Arc::clone(&dropped));
        Task::new(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        })
        .named(name)
    };
    let tasks = answered(&supervisor, "/over?query").await;
    tasks.add(never("runs"));
    tokio::time::advance(SECOND).await;
    tasks.add(never("waits"));
    tokio::time::advance(SECOND).await;
    let call = Call::new(&supervisor, "/open");
    call.tasks.add(never("deferred"));

    let report = supervisor.shutdown(GRACE).await;
    assert_eq!(counts(&report), (0, 0, 3, 1), "{report:?}");
    assert_eq!(
        report.to_string(),
        "incomplete shutdown, tasks finished in the grace: 0, cancelled tasks: 0, open \
         responses: 1, aborted tasks: 3 (`runs` of GET /over, which runs; `waits` of GET /over, \
         which waits to run; `deferred` of GET /open, whose response is open)"
    );
    assert_eq!(
        names(report.abandoned()),
        ["runs", "waits", "deferred"],
        "the oldest first"
    );
    let stood: Vec<_> = report.abandoned().iter().map(TaskInfo::state).collect();
    assert_eq!(
        stood,
        [TaskState::Running, TaskState::Queued, TaskState::Deferred]
    );
    let paths: Vec<_> = report.abandoned().iter().map(TaskInfo::path).collect();
    assert_eq!(paths, [Some("/over"), Some("/over"), Some("/open")]);
    assert!(
        report
            .abandoned()
            .iter()
            .all(|task| task.method() == Some(&http::Method::GET))
    );
    let oldest = report.abandoned()[0].age();
    assert!(
        (17 * SECOND..18 * SECOND).contains(&oldest),
        "2 s before, 10 s of grace, 5 s to come to an end: {oldest:?}"
    );

    assert_eq!(
        dropped.load(SeqCst),
        3,
        "all are dropped when the shutdown returns"
    );
    let stats = supervisor.stats();
    assert_eq!((stats.aborted, stats.pending()), (3, 0));
    let mut ended = told.ended();
    ended.sort();
    assert_eq!(ended, ["deferred aborted", "runs aborted", "waits aborted"]);
    // The end of the response starts nothing.
    call.finish().await;
    assert_eq!((supervisor.stats(), told.ended().len()), (stats, 3));
    assert_eq!(told.shutdowns().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_sequence_is_dropped_with_it() {
    for order in [Order::Sequential, Order::FailFast] {
        let supervisor = Supervisor::builder().order(order).build();
        let call = Call::new(&supervisor, "/");
        call.tasks
            .add(Task::new(std::future::pending::<()>()).named("first"));
        call.tasks.add(Task::new(must_not_start()).named("second"));
        call.finish().await;

        let report = supervisor.shutdown(GRACE).await;
        assert_eq!(names(report.abandoned()), ["first", "second"], "{order:?}");
        let stats = supervisor.stats();
        assert_eq!(
            (stats.aborted, stats.added()),
            (2, 2),
            "{order:?}: {stats:?}"
        );
    }
}

#[tokio::test]
async fn a_blocking_task_can_heed_its_token() {
    let supervisor = Supervisor::builder()
        .abort_after(crate::common::PATIENCE)
        .build();
    let tasks = answered(&supervisor, "/").await;
    let (running, runs) = oneshot::channel();
    tasks.add(Task::blocking_with_context(|cx| {
        running.send(()).expect("the test is there");
        while !cx.is_cancelled() {
            std::thread::yield_now();
        }
    }));
    soon(runs).await.expect("it runs");

    let report = soon(supervisor.shutdown(Duration::from_millis(1))).await;
    assert_eq!(counts(&report), (0, 1, 0, 0));
    assert_eq!(supervisor.stats().succeeded, 1);
}

#[tokio::test]
async fn a_blocking_task_that_ignores_its_token_is_reported() {
    let supervisor = Supervisor::builder()
        .abort_after(Duration::from_millis(1))
        .build();
    let tasks = answered(&supervisor, "/export").await;
    let (running, runs) = oneshot::channel();
    let (end, ends) = mpsc::channel::<()>();
    let (late, came_late) = oneshot::channel();
    tasks.add(
        Task::blocking(move || {
            running.send(()).expect("the test is there");
            let _ = ends.recv();
            let tasks = BackgroundTasks::current().expect("this is a task of a request");
            late.send(tasks.try_add(async {}).is_err())
                .expect("the test is there");
        })
        .named("ignorant"),
    );
    soon(runs).await.expect("it runs");

    let report = soon(supervisor.shutdown(Duration::from_millis(1))).await;
    assert_eq!(counts(&report), (0, 0, 1, 0));
    let task = &report.abandoned()[0];
    assert_eq!(
        (task.name(), task.path(), task.state()),
        (Some("ignorant"), Some("/export"), TaskState::Running)
    );
    let stats = supervisor.stats();
    assert_eq!((stats.aborted, stats.pending()), (1, 0));

    drop(end);
    assert!(
        soon(came_late).await.expect("it comes to its end"),
        "what it adds then is refused"
    );
    let stats = supervisor.stats();
    assert_eq!((stats.aborted, stats.refused, stats.added()), (1, 1, 1));
}

#[test]
fn a_blocking_task_that_has_no_thread_yet_never_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (free, is_free) = mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || is_free.recv());
        let supervisor = Supervisor::builder()
            .abort_after(Duration::from_millis(1))
            .build();
        let tasks = answered(&supervisor, "/").await;
        let dropped = Arc::new(AtomicUsize::new(0));
        let ran = Arc::new(AtomicUsize::new(0));
        for timeout in [Duration::from_millis(1), crate::common::PATIENCE] {
            let (guard, ran) = (Dropped(Arc::clone(&dropped)), Arc::clone(&ran));
            let task = Task::blocking(move || {
                let _guard = guard;
                ran.fetch_add(1, SeqCst);
            });
            tasks.add(task.timeout(timeout));
        }
        while supervisor.stats().timed_out == 0 {
            tokio::task::yield_now().await;
        }
        let report = soon(supervisor.shutdown(Duration::from_millis(1))).await;
        assert_eq!(counts(&report), (0, 0, 1, 0), "{report:?}");
        drop(free);
        soon(busy)
            .await
            .expect("it does not panic")
            .expect_err("nothing was sent");
        soon(tokio::task::spawn_blocking(|| ()))
            .await
            .expect("the thread is free for the next");
        assert_eq!(
            (ran.load(SeqCst), dropped.load(SeqCst)),
            (0, 2),
            "one had timed out, and one was dropped by the shutdown"
        );
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_holds_its_thread_does_not_hold_the_shutdown() {
    let supervisor = Supervisor::builder()
        .abort_after(Duration::from_millis(1))
        .build();
    let tasks = answered(&supervisor, "/").await;
    let (running, runs) = oneshot::channel();
    let (end, ends) = mpsc::channel::<()>();
    tasks.add(
        Task::new(async move {
            running.send(()).expect("the test is there");
            let _ = ends.recv();
        })
        .named("busy"),
    );
    soon(runs).await.expect("it runs");

    let report = soon(supervisor.shutdown(Duration::from_millis(1))).await;
    assert_eq!(names(report.abandoned()), ["busy"]);
    assert_eq!(
        supervisor.stats().running,
        1,
        "it is not dropped, and not called dropped"
    );
    drop(end);
    soon(supervisor.idle()).await;
    assert_eq!(
        supervisor.stats().succeeded,
        1,
        "it came to its end without an await"
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_response_open() {
    let supervisor = Supervisor::builder()
        .abort_after(Duration::from_millis(1))
        .build();
    let server = Server::with(supervisor.clone(), |_, course| {
        let megabytes = (0..64).map(|_| Step::data(vec![0; 1 << 20]));
        Response::new(Script::new(megabytes).seen_by(course.expect_body()))
    })
    .await;
    let mut client = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    client
        .write_all(b"GET /download HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("it reads");
    client.read_u8().await.expect("it has begun to answer");

    let report = soon(supervisor.shutdown(Duration::from_millis(1))).await;
    assert_eq!(counts(&report), (0, 0, 1, 1), "{report:?}");
    let task = &report.abandoned()[0];
    assert_eq!(
        (task.name(), task.path(), task.state()),
        (Some("witness"), Some("/download"), TaskState::Deferred)
    );
    assert_eq!(
        (supervisor.stats().aborted, supervisor.open_responses()),
        (1, 1),
        "its response is still open"
    );

    drop(client);
    until(async || supervisor.open_responses() == 0).await;
    assert_eq!(supervisor.stats().added(), 1);
    server.witness.nothing_else().await;
}

#[tokio::test]
async fn every_call_has_the_same_result_and_it_is_told_once() {
    let told = Arc::new(Told::default());
    let supervisor = Supervisor::builder().observer(Arc::clone(&told)).build();
    let tasks = answered(&supervisor, "/").await;
    let end = Arc::new(Notify::new());
    let ends = Arc::clone(&end);
    tasks.add(async move { ends.notified().await });

    let calls: Vec<_> = (0..8)
        .map(|_| shut_down(&supervisor, crate::common::PATIENCE))
        .collect();
    tokio::task::yield_now().await;
    assert!(told.shutdowns().is_empty());
    end.notify_one();
    for call in calls {
        assert_eq!(
            counts(&soon(call).await.expect("it does not panic")),
            (1, 0, 0, 0)
        );
    }
    assert_eq!(
        counts(&soon(supervisor.shutdown(Duration::ZERO)).await),
        (1, 0, 0, 0),
        "also of a later call"
    );
    assert_eq!(told.shutdowns().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_shortest_grace_counts_for_every_call() {
    let supervisor = Supervisor::builder().abort_after(SECOND).build();
    let open = Call::new(&supervisor, "/open");
    open.tasks.add(async {});
    let started = Instant::now();
    let calls = [100 * SECOND, SECOND, 50 * SECOND].map(|grace| shut_down(&supervisor, grace));
    for call in calls {
        assert_eq!(
            counts(&call.await.expect("it does not panic")),
            (0, 0, 1, 1)
        );
    }
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
    open.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_dropped_is_gone_on_with() {
    let supervisor = Supervisor::builder().abort_after(5 * SECOND).build();
    let tasks = answered(&supervisor, "/").await;
    let (told, mut was_told) = oneshot::channel();
    tasks.add(Task::with_context(|cx| async move {
        cx.cancelled().await;
        told.send(()).expect("the test is there");
        std::future::pending::<()>().await;
    }));

    let first = tokio::time::timeout(SECOND, supervisor.shutdown(GRACE)).await;
    assert!(first.is_err(), "it was dropped in its grace");
    assert!(was_told.try_recv().is_err());
    let late = Call::new(&supervisor, "/late");
    assert!(
        late.tasks.try_add(async {}).is_err(),
        "it is closed all the same"
    );
    late.finish().await;

    let second = tokio::time::timeout(GRACE + SECOND, supervisor.shutdown(GRACE)).await;
    assert!(second.is_err(), "it was dropped when it had told the tasks");
    was_told.try_recv().expect("the task was told");

    let started = Instant::now();
    let report = supervisor.shutdown(GRACE).await;
    assert!(
        started.elapsed() < GRACE,
        "the grace was over: {:?}",
        started.elapsed()
    );
    assert_eq!(counts(&report), (0, 0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn tasks_of_later_requests_are_refused() {
    let told = Arc::new(Told::default());
    let supervisor = Supervisor::builder().observer(Arc::clone(&told)).build();
    let open = Call::new(&supervisor, "/open");
    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());

    let late = Call::new(&supervisor, "/late");
    assert_eq!(
        supervisor.open_responses(),
        1,
        "a shutdown does not wait for what came after it"
    );
    let dropped = Arc::new(AtomicUsize::new(0));
    let guard = Dropped(Arc::clone(&dropped));
    assert!(
        late.tasks
            .try_add(Task::new(async move { drop(guard) }).named("late"))
            .is_err()
    );
    assert_eq!(
        dropped.load(SeqCst),
        1,
        "it is dropped with all that it held"
    );
    assert!(
        open.tasks
            .try_add(Task::new(async {}).named("in time"))
            .is_ok()
    );
    late.finish().await;
    open.finish().await;

    let report = shutdown.await;
    assert!(
        report.is_clean(),
        "a refusal is not of the shutdown: {report:?}"
    );
    let stats = supervisor.stats();
    assert_eq!((stats.refused, stats.succeeded, stats.added()), (1, 1, 1));
    assert_eq!(told.ended(), ["in time succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_kept_is_refused_at_the_end() {
    let supervisor = Supervisor::new();
    let kept = answered(&supervisor, "/").await;
    let open = Call::new(&supervisor, "/open");
    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());
    assert!(
        kept.try_add(async {}).is_ok(),
        "its request came in time, and the supervisor still waits"
    );
    open.finish().await;
    assert_eq!(counts(&shutdown.await), (1, 0, 0, 0));
    assert!(kept.try_add(must_not_start()).is_err());
    assert_eq!(
        (supervisor.stats().refused, supervisor.stats().pending()),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_task_that_panics_when_it_is_dropped_does_not_reach_the_caller() {
    struct Trap;
    impl Drop for Trap {
        fn drop(&mut self) {
            panic!("a captured value's");
        }
    }
    let supervisor = Supervisor::new();
    let kept = answered(&supervisor, "/").await;
    supervisor.shutdown(GRACE).await;
    let trap = Trap;
    assert!(kept.try_add(async move { drop(trap) }).is_err());
    assert_eq!(supervisor.stats().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_observer_does_not_disturb_it() {
    struct Panics;
    impl Observer for Panics {
        fn on_shutdown(&self, _report: &ShutdownReport) {
            panic!("an observer's");
        }
    }
    let told = Arc::new(Told::default());
    let supervisor = Supervisor::builder()
        .observer(Panics)
        .observer(Arc::clone(&told))
        .build();
    assert!(supervisor.shutdown(GRACE).await.is_clean());
    assert_eq!(told.shutdowns().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn refusals_and_what_was_left_are_logged() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    let open = Call::new(&supervisor, "/open");
    open.tasks.add(async {});
    supervisor.shutdown(GRACE).await;
    open.tasks.add(Task::new(async {}).named("late"));

    let refused = events.of_task("late");
    let [refused @ Entry::Event { level, .. }] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert!(
        refused
            .message()
            .is_some_and(|message| message.starts_with("a background task was refused")),
        "{refused:?}"
    );
    assert_eq!(*level, tracing::Level::ERROR);
    assert_eq!(
        (refused.field("task"), refused.field("path")),
        (Some("late"), Some("/open"))
    );

    let left = events.with_message(
        "the grace was too short: 0 tasks were cancelled, 1 task was aborted, 1 response was open: \
         a task without a name of GET /open, whose response is open",
    );
    let [Entry::Event { level, .. }] = &left[..] else {
        panic!("{left:?}")
    };
    assert_eq!(*level, tracing::Level::WARN);
    open.finish().await;
}

/// Each task that `add` took has run when the shutdown returns, and nothing is taken after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_closes_in_one_step() {
    for _ in 0..50 {
        let supervisor = Supervisor::new();
        let kept = answered(&supervisor, "/").await;
        let runtime = tokio::runtime::Handle::current();
        // Each adds one task after the other until one is refused, and says how many were taken.
        let adders = [(); 2].map(|()| {
            let (kept, runtime) = (kept.clone(), runtime.clone());
            std::thread::spawn(move || {
                let _runtime = runtime.enter();
                let mut taken = 0;
                loop {
                    let (run, has_run) = mpsc::channel();
                    if kept
                        .try_add(async move { run.send(()).expect("the thread waits") })
                        .is_err()
                    {
                        return taken;
                    }
                    has_run.recv().expect("what was taken is run");
                    taken += 1;
                }
            })
        });
        while supervisor.stats().added() == 0 {
            tokio::task::yield_now().await;
        }
        let report = soon(supervisor.shutdown(crate::common::PATIENCE)).await;
        let stats = supervisor.stats();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(stats.pending(), 0);
        let taken: u64 = adders
            .map(|adder| adder.join().expect("it does not panic"))
            .iter()
            .sum();
        assert_eq!(
            stats.succeeded, taken,
            "what was taken had run, and nothing was taken later"
        );
        let stats = supervisor.stats();
        assert_eq!((stats.refused, stats.added()), (2, taken));
    }
}

/// Requests that come too late must not hide the end of the last one that came in time.
/// Work that is always about to run.
async fn yields() {
    while std::hint::black_box(true) {
        tokio::task::yield_now().await;
    }
}

/// Tasks that run on the other worker stop while the shutdown lists what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_that_it_aborts_is_reported() {
    for tasks in [1, 5_000, 5_000, 5_000] {
        let supervisor = Supervisor::builder().abort_after(Duration::ZERO).build();
        for _ in 0..tasks {
            drop(supervisor.spawn(yields()).expect("the supervisor is open"));
        }
        until(async || supervisor.stats().running == tasks).await;
        let report = supervisor.shutdown(Duration::ZERO).await;
        soon(supervisor.idle()).await;
        let reported = report.abandoned().len() as u64;
        assert_eq!(supervisor.stats().aborted, reported, "of {tasks}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_requests_do_not_hold_it_open() {
    for _ in 0..500 {
        let supervisor = Supervisor::new();
        let open = Call::new(&supervisor, "/open").answer().await;
        let shutdown = shut_down(&supervisor, crate::common::PATIENCE * 2);
        let late = supervisor.clone();
        let (stop, stopped) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let storm = std::thread::spawn(move || {
            let mut begun = Some(begun);
            let mut service =
                BackgroundLayer::with_supervisor(late).layer(service_fn(async |_: Request<()>| {
                    Ok::<_, ()>(Response::new(Full::<Bytes>::default()))
                }));
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                for _ in 0..20 {
                    drop(service.call(Request::new(())));
                }
                if let Some(begun) = begun.take() {
                    begun.send(()).expect("the test is there");
                }
            }
        });
        soon(begins).await.expect("the storm begins");
        drop(open);
        let report = tokio::time::timeout(crate::common::PATIENCE, shutdown).await;
        drop(stop);
        storm.join().expect("it does not panic");
        let report = report
            .expect("the last response has ended")
            .expect("it does not panic");
        assert!(report.is_clean(), "{report:?}");
    }
}
