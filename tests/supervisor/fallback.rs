//! A shutdown fallback runs in place of a task's work if the supervisor is closed when the task is
//! added, or if the grace ends before the work did. It runs at most once, needs no permit, has
//! `abort_after` to finish, and obeys the task's condition.

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Order, Supervisor, Task, When};

use crate::{
    common::{Call, PATIENCE, alone, answered, settle, soon, until},
    shutdown_cost::{Case, assert_linear},
};

const GRACE: Duration = Duration::from_millis(1);

/// Counts the ends of work and of fallbacks, and their drops.
#[derive(Debug, Clone, Default)]
struct Counts {
    worked: Arc<AtomicUsize>,
    fell_back: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Captured(Arc<AtomicUsize>);

impl Drop for Captured {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Counts {
    /// A future that counts its end in `ended`, and its drop.
    fn count(
        &self,
        ended: &Arc<AtomicUsize>,
        before: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, ()> {
        let (ended, captured) = (ended.clone(), Captured(self.dropped.clone()));
        Box::pin(async move {
            let _captured = captured;
            before.await;
            ended.fetch_add(1, SeqCst);
        })
    }

    /// A task whose work waits for `before`, and whose fallback does not wait.
    fn task(&self, before: impl Future<Output = ()> + Send + 'static) -> Task {
        let fallback = self.count(&self.fell_back, ready(()));
        Task::new(self.count(&self.worked, before)).shutdown_fallback(fallback)
    }

    /// How often the work and the fallback came to their ends.
    fn ends(&self) -> (usize, usize) {
        (self.worked.load(SeqCst), self.fell_back.load(SeqCst))
    }

    fn dropped(&self) -> usize {
        self.dropped.load(SeqCst)
    }
}

/// Checks that this many tasks succeeded and fell back, and that there were no others.
fn assert_counted(supervisor: &Supervisor, succeeded: u64, fell_back: u64) {
    let stats = supervisor.stats();
    assert_eq!(
        (stats.succeeded, stats.fell_back, stats.added()),
        (succeeded, fell_back, succeeded + fell_back),
        "{stats:?}"
    );
}

/// Checks that one task was added and fell back, and that nothing of it is left.
fn assert_fell_back(supervisor: &Supervisor, counts: &Counts) {
    let stats = supervisor.stats();
    assert_eq!(
        (stats.added(), stats.pending(), stats.fell_back),
        (1, 0, 1),
        "{stats:?}"
    );
    assert_eq!((counts.ends(), counts.dropped()), ((0, 1), 2));
}

#[tokio::test]
async fn the_supervisor_is_closed_when_the_task_is_added() {
    let (supervisor, counts) = (Supervisor::new(), Counts::default());
    let tasks = answered(&supervisor, "/").await;
    assert!(supervisor.shutdown(PATIENCE).await.is_clean());
    tasks.add(counts.task(ready(())));
    until(async || supervisor.stats().fell_back == 1).await;
    soon(supervisor.idle()).await;
    assert_fell_back(&supervisor, &counts);
}

#[tokio::test]
async fn the_supervisor_is_closed_when_the_request_comes() {
    let (supervisor, counts) = (Supervisor::new(), Counts::default());
    assert!(supervisor.shutdown(PATIENCE).await.is_clean());
    let call = Call::new(&supervisor, "/");
    call.tasks.add(counts.task(ready(())).when(When::Always));
    call.finish().await;
    until(async || supervisor.stats().fell_back == 1).await;
    soon(supervisor.idle()).await;
    assert_fell_back(&supervisor, &counts);
}

#[tokio::test]
async fn a_task_without_fallback_is_refused_when_the_supervisor_is_closed() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    assert!(supervisor.shutdown(PATIENCE).await.is_clean());
    tasks.add(async {});
    let stats = supervisor.stats();
    assert_eq!(
        (stats.fell_back, stats.succeeded, stats.pending()),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn the_grace_ends_while_the_task_runs() {
    let (supervisor, counts) = (Supervisor::new(), Counts::default());
    let tasks = answered(&supervisor, "/").await;
    let (runs, running) = oneshot::channel();
    tasks.add(counts.task(async move {
        runs.send(()).expect("the test waits");
        pending::<()>().await;
    }));
    soon(running).await.expect("the task runs");
    soon(supervisor.shutdown(GRACE)).await;
    assert_fell_back(&supervisor, &counts);
}

#[tokio::test]
async fn the_grace_ends_while_the_task_waits_for_a_permit() {
    let supervisor = Supervisor::builder()
        .max_concurrent(1)
        .abort_after(PATIENCE)
        .build();
    let counts = Counts::default();
    let tasks = answered(&supervisor, "/").await;
    // Holds the permit until the fallback of the other task has run.
    let (runs, running) = oneshot::channel();
    let (falls_back, fallen_back) = oneshot::channel();
    tasks.add(Task::with_context(async move |cx| {
        runs.send(()).expect("the test waits");
        cx.cancelled().await;
        fallen_back.await.expect("the fallback runs");
    }));
    soon(running).await.expect("the first task runs");
    let fallback = async move { falls_back.send(()).expect("the first task waits") };
    tasks.add(
        Task::new(counts.count(&counts.worked, ready(())))
            .shutdown_fallback(counts.count(&counts.fell_back, fallback)),
    );
    settle().await;
    soon(supervisor.shutdown(GRACE)).await;
    assert_counted(&supervisor, 1, 1);
    assert_eq!((counts.ends(), counts.dropped()), ((0, 1), 2));
}

#[tokio::test]
async fn the_grace_ends_while_the_task_waits_for_the_one_before() {
    let supervisor = Supervisor::builder().order(Order::Sequential).build();
    let counts = Counts::default();
    let call = Call::new(&supervisor, "/");
    for _ in 0..3 {
        call.tasks.add(counts.task(pending()));
    }
    call.finish().await;
    until(async || supervisor.stats().running == 1).await;
    soon(supervisor.shutdown(GRACE)).await;
    let stats = supervisor.stats();
    assert_eq!((stats.fell_back, stats.added()), (3, 3), "{stats:?}");
    assert_eq!((counts.ends(), counts.dropped()), ((0, 3), 6));
}

/// A response with this status, whose head is there and whose body is open.
async fn open(
    supervisor: &Supervisor,
    status: StatusCode,
    task: Task,
) -> Response<impl http_body::Body + use<>> {
    let mut task = Some(task);
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<()>| {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(task.take().expect("there is one request"));
            let mut response = Response::new(Full::<Bytes>::from("hello"));
            *response.status_mut() = status;
            ready(Ok::<_, Infallible>(response))
        },
    ));
    let Ok(response) = service.oneshot(Request::new(())).await;
    response
}

#[tokio::test]
async fn the_grace_ends_while_the_response_is_open() {
    for when in [When::Responded, When::Success, When::Always] {
        let (supervisor, counts) = (Supervisor::new(), Counts::default());
        let response = open(
            &supervisor,
            StatusCode::OK,
            counts.task(ready(())).when(when),
        )
        .await;
        soon(supervisor.shutdown(GRACE)).await;
        assert_fell_back(&supervisor, &counts);
        // Its end starts nothing any more.
        drop(response);
        settle().await;
        assert_fell_back(&supervisor, &counts);
    }
}

#[tokio::test]
async fn the_grace_ends_before_the_head() {
    let (supervisor, counts) = (Supervisor::new(), Counts::default());
    let call = Call::new(&supervisor, "/");
    call.tasks.add(counts.task(ready(())).when(When::Always));
    soon(supervisor.shutdown(GRACE)).await;
    assert_fell_back(&supervisor, &counts);
    call.finish().await;
    settle().await;
    assert_fell_back(&supervisor, &counts);
}

/// An open response counts by its head.
#[tokio::test]
async fn the_condition_holds_for_the_fallback() {
    let (supervisor, counts) = (Supervisor::new(), Counts::default());
    let task = counts.task(ready(())).when(When::Success);
    let response = open(&supervisor, StatusCode::INTERNAL_SERVER_ERROR, task).await;
    soon(supervisor.shutdown(GRACE)).await;
    drop(response);
    soon(supervisor.idle()).await;
    let stats = supervisor.stats();
    assert_eq!(
        (
            counts.ends(),
            counts.dropped(),
            stats.fell_back,
            stats.pending()
        ),
        ((0, 0), 2, 0, 0),
        "{stats:?}"
    );
    assert_eq!(stats.skipped, 1, "{stats:?}");
}

#[tokio::test]
async fn a_fallback_fails() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(Task::new(pending::<()>()).shutdown_fallback(async { Err::<(), _>("as it should") }));
    soon(supervisor.shutdown(GRACE)).await;
    let stats = supervisor.stats();
    assert_eq!(
        (
            stats.failed,
            stats.fell_back,
            stats.pending(),
            stats.added()
        ),
        (1, 0, 0, 1),
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_fallback_panics() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(
        Task::new(pending::<()>()).shutdown_fallback(async { assert_eq!(1, 2, "as it should") }),
    );
    soon(supervisor.shutdown(GRACE)).await;
    let stats = supervisor.stats();
    assert_eq!(
        (
            stats.failed + stats.panicked,
            stats.fell_back,
            stats.pending(),
            stats.added()
        ),
        (1, 0, 0, 1),
        "{stats:?}"
    );
}

#[tokio::test]
async fn a_fallback_takes_longer_than_abort_after() {
    let supervisor = Supervisor::builder()
        .abort_after(Duration::from_millis(20))
        .build();
    let counts = Counts::default();
    let tasks = answered(&supervisor, "/").await;
    let fallback = counts.count(&counts.fell_back, pending());
    tasks.add(
        Task::new(counts.count(&counts.worked, pending()))
            .named("late")
            .shutdown_fallback(fallback),
    );
    let report = soon(supervisor.shutdown(GRACE)).await;
    assert!(!report.is_clean());
    assert!(
        report
            .abandoned()
            .iter()
            .any(|task| task.name() == Some("late")),
        "{report:?}"
    );
    let stats = supervisor.stats();
    assert_eq!(
        (
            stats.aborted,
            stats.fell_back,
            stats.pending(),
            stats.added()
        ),
        (1, 0, 0, 1),
        "{stats:?}"
    );
    assert_eq!((counts.ends(), counts.dropped()), ((0, 0), 2));
}

#[tokio::test]
async fn work_that_ends_within_the_grace_needs_no_fallback() {
    let (supervisor, counts) = (Supervisor::new(), Counts::default());
    let tasks = answered(&supervisor, "/").await;
    let (go, going) = oneshot::channel();
    tasks.add(counts.task(async move { going.await.expect("the test sends") }));
    until(async || supervisor.stats().running == 1).await;
    let closing = supervisor.clone();
    let shutdown = tokio::spawn(async move { closing.shutdown(PATIENCE).await });
    settle().await;
    go.send(()).expect("the task waits");
    assert!(soon(shutdown).await.expect("it does not panic").is_clean());
    assert_counted(&supervisor, 1, 0);
    assert_eq!((counts.ends(), counts.dropped()), ((1, 0), 2));
}

/// A blocking closure that waits for a permit has not begun, so that its fallback can take its
/// place.
#[tokio::test]
async fn of_a_blocking_task_that_waits() {
    let supervisor = Supervisor::builder().max_blocking(1).build();
    let counts = Counts::default();
    let tasks = answered(&supervisor, "/").await;
    let (end, waiting) = std::sync::mpsc::channel::<()>();
    tasks.add(Task::blocking(move || {
        let _ = waiting.recv();
    }));
    until(async || supervisor.stats().running == 1).await;
    let worked = counts.worked.clone();
    let work = move || {
        worked.fetch_add(1, SeqCst);
    };
    tasks.add(Task::blocking(work).shutdown_fallback(counts.count(&counts.fell_back, ready(()))));
    settle().await;
    let closing = supervisor.clone();
    let shutdown = tokio::spawn(async move { closing.shutdown(GRACE).await });
    until(async || supervisor.stats().fell_back == 1).await;
    drop(end);
    soon(shutdown).await.expect("it does not panic");
    assert_eq!((counts.ends(), counts.dropped()), ((0, 1), 1));
    assert_eq!(supervisor.stats().added(), 2);
}

#[test]
fn the_cost_of_a_shutdown_with_fallbacks_is_linear() {
    alone!(the_cost_of_a_shutdown_with_fallbacks_is_linear, || {
        let task = || {
            Task::new(pending::<()>())
                .when(When::Always)
                .shutdown_fallback(ready(()))
        };
        assert_linear(Case {
            task,
            abort_after: PATIENCE,
            ended: |stats| stats.fell_back,
        });
    });
}
