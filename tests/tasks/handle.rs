//! `try_add` returns a handle, which awaits or aborts the task before, during and after its run.

use std::{
    future::{pending, ready},
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tower_background::{
    BackgroundTasks, Observer, Order, Outcome, Supervisor, Task, TaskHandle, When,
    report::{TaskInfo, TaskReport},
};

use crate::common::{Call, Held, PATIENCE, answered, settle, soon, until};

/// The label of a task's outcome.
async fn label(handle: TaskHandle) -> &'static str {
    soon(handle).await.label()
}

/// Aborts a task, and checks that nothing of it is left.
async fn assert_aborts(supervisor: &Supervisor, handle: TaskHandle) {
    let aborted = supervisor.stats().aborted;
    handle.abort();
    // A second call changes nothing.
    handle.abort();
    assert_eq!(label(handle).await, "aborted");
    until(async || supervisor.stats().aborted == aborted + 1).await;
}

/// A task that must not run, and what is gone once the task is dropped.
fn idle_task() -> (Task, std::sync::Weak<()>) {
    let captured = Arc::new(());
    let left = Arc::downgrade(&captured);
    let task = Task::new(async move {
        drop(captured);
        assert_eq!(1, 2, "the task must not run");
    });
    (task, left)
}

#[tokio::test]
async fn each_outcome_reaches_the_handle() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    let add = |task: Task| tasks.try_add(task).expect("the supervisor is open");
    assert_eq!(label(add(Task::new(async {}))).await, "succeeded");
    assert_eq!(label(add(Task::blocking(|| {}))).await, "succeeded");
    assert_eq!(
        label(add(Task::new(async { assert_eq!(1, 2, "as it should") }))).await,
        "panicked"
    );
    assert_eq!(
        label(add(
            Task::new(pending::<()>()).timeout(Duration::from_millis(1))
        ))
        .await,
        "timed_out"
    );
    assert_eq!(
        label(add(Task::new(async {}).when(When::matches(|_| false)))).await,
        "skipped"
    );
    // The handle gets the error itself, and not only its text.
    let failed = soon(add(Task::new(async {
        Err::<(), _>(io::Error::from(io::ErrorKind::NotFound))
    })))
    .await;
    let Outcome::Failed(error) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(
        error
            .downcast::<io::Error>()
            .expect("it is the error of the task")
            .kind(),
        io::ErrorKind::NotFound
    );
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().added(), 6);
}

#[tokio::test]
async fn a_handle_can_be_polled_and_awaited_later() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    let mut handle = call
        .tasks
        .try_add(async {})
        .expect("the supervisor is open");
    assert!(
        (&mut handle).now_or_never().is_none(),
        "the response is open"
    );
    call.finish().await;
    assert_eq!(label(handle).await, "succeeded");
}

#[tokio::test]
async fn dropping_the_handle_leaves_the_task_alone() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    drop(call.tasks.try_add(async {}));
    call.finish().await;
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 1);
}

#[tokio::test]
async fn a_task_that_is_taken_back_ends_for_its_handle() {
    let call = Call::new(&Supervisor::new(), "/");
    let handle = call
        .tasks
        .try_add(Task::new(async {}).named("mail"))
        .expect("the supervisor is open");
    assert_eq!(call.tasks.remove("mail"), 1);
    assert_eq!(label(handle).await, "removed");
}

#[tokio::test]
async fn a_deferred_task_is_aborted() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    let (task, left) = idle_task();
    let handle = call.tasks.try_add(task).expect("the supervisor is open");
    assert_aborts(&supervisor, handle).await;
    assert!(left.upgrade().is_none() && call.tasks.names().is_empty());
    call.finish().await;
    settle().await;
    assert_eq!(
        (supervisor.stats().added(), supervisor.stats().aborted),
        (1, 1)
    );
}

#[tokio::test]
async fn a_task_that_waits_is_aborted() {
    // It waits for its turn, or for a permit.
    for builder in [
        Supervisor::builder().order(Order::Sequential),
        Supervisor::builder().max_concurrent(1),
    ] {
        let (supervisor, held) = (builder.build(), Held::new());
        let tasks = answered(&supervisor, "/").await;
        tasks.add(held.task("first"));
        let (task, left) = idle_task();
        let handle = tasks.try_add(task).expect("the supervisor is open");
        let last = tasks.try_add(async {}).expect("the supervisor is open");
        assert_eq!(held.started().await, "first");
        assert_aborts(&supervisor, handle).await;
        assert!(left.upgrade().is_none());
        held.let_go(1);
        assert_eq!(
            label(last).await,
            "succeeded",
            "the next one is not held up"
        );
    }
}

#[tokio::test]
async fn a_task_that_was_not_polled_yet_is_aborted() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    let (task, left) = idle_task();
    let condition = When::matches(|_| unreachable!("nothing is asked of an aborted task"));
    let handle = call
        .tasks
        .try_add(task.when(condition))
        .expect("the supervisor is open");
    let other = call
        .tasks
        .try_add(async {})
        .expect("the supervisor is open");
    // Both are spawned, and neither has run.
    drop(call.answer().await);
    assert_aborts(&supervisor, handle).await;
    assert!(left.upgrade().is_none());
    assert_eq!(label(other).await, "succeeded");
}

#[tokio::test]
async fn a_running_task_is_aborted() {
    let (supervisor, held) = (Supervisor::new(), Held::new());
    let tasks = answered(&supervisor, "/").await;
    let handle = tasks
        .try_add(held.task("runs"))
        .expect("the supervisor is open");
    assert_eq!(held.started().await, "runs");
    assert_aborts(&supervisor, handle).await;
    soon(supervisor.idle()).await;
}

/// Counts the tasks that start, and those that have run when they end.
#[derive(Default)]
struct Runs {
    started: AtomicUsize,
    ran: AtomicUsize,
}

impl Observer for Runs {
    fn on_task_start(&self, _task: &TaskInfo) {
        self.started.fetch_add(1, SeqCst);
    }

    fn on_task_end(&self, report: &TaskReport) {
        let ran = usize::from(report.ran().is_some());
        self.ran.fetch_add(ran, SeqCst);
    }
}

#[tokio::test]
async fn a_task_that_its_condition_aborts_does_not_start() {
    let runs = Arc::new(Runs::default());
    let supervisor = Supervisor::builder().observer(Arc::clone(&runs)).build();
    let call = Call::new(&supervisor, "/");
    let handle = Arc::new(OnceLock::<TaskHandle>::new());
    let own = Arc::clone(&handle);
    let (task, _) = idle_task();
    let aborts = When::matches(move |_| {
        own.get().expect("the test has set it").abort();
        true
    });
    let added = call.tasks.try_add(task.when(aborts));
    assert!(handle.set(added.expect("the supervisor is open")).is_ok());
    call.finish().await;
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().to_string(), "1 aborted");
    assert_eq!((runs.started.load(SeqCst), runs.ran.load(SeqCst)), (0, 0));
}

/// Aborts tasks while their code runs for the first time. They stop when they wait next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_aborted_while_it_is_polled_first() {
    let kinds: [fn(Busy) -> Task; 4] = [
        |busy| Task::new(busy.work()),
        |busy| Task::with_context(|_| busy.work()),
        |busy| Task::new(busy.work()).timeout(PATIENCE),
        |busy| Task::new(busy.work()).shutdown_fallback(ready(())),
    ];
    for kind in kinds {
        let supervisor = Supervisor::new();
        let tasks = answered(&supervisor, "/").await;
        let (busy, runs, release) = Busy::new();
        let handle = tasks.try_add(kind(busy)).expect("the supervisor is open");
        soon(runs).await.expect("it runs");
        handle.abort();
        assert_eq!(supervisor.stats().running, 1, "its code runs");
        drop(release);
        assert_eq!(label(handle).await, "aborted");
        soon(supervisor.idle()).await;
    }
}

/// Work that holds its thread when it is first polled, until it is released. Then it waits for ever.
struct Busy {
    running: oneshot::Sender<()>,
    released: mpsc::Receiver<()>,
}

impl Busy {
    fn new() -> (Self, oneshot::Receiver<()>, mpsc::Sender<()>) {
        let (running, runs) = oneshot::channel();
        let (release, released) = mpsc::channel();
        (Self { running, released }, runs, release)
    }

    fn work(self) -> impl Future<Output = ()> + Send {
        let Self { running, released } = self;
        async move {
            running.send(()).expect("the test waits");
            // It ends when the sender is dropped.
            let _ = released.recv();
            drop(released);
            pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn a_task_can_abort_itself() {
    // It goes on until it waits. If it does not wait, it ends as usual.
    for (waits, expected) in [(true, "aborted"), (false, "succeeded")] {
        for polls_before in [0, 1] {
            let supervisor = Supervisor::new();
            let call = Call::new(&supervisor, "/");
            let (own, handle) = oneshot::channel::<TaskHandle>();
            let task = async move {
                let handle = handle.await.expect("the test sends it");
                for _ in 0..polls_before {
                    tokio::task::yield_now().await;
                }
                handle.abort();
                if waits {
                    pending::<()>().await;
                }
            };
            let handle = call.tasks.try_add(task).expect("the supervisor is open");
            own.send(handle).expect("the task waits");
            call.finish().await;
            soon(supervisor.idle()).await;
            assert_eq!(supervisor.stats().to_string(), format!("1 {expected}"));
        }
    }
}

#[tokio::test]
async fn a_blocking_function_that_runs_is_asked_to_stop() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    let (running, runs) = oneshot::channel();
    let (stopped, stops) = mpsc::channel();
    let task = Task::blocking_with_context(move |cx| {
        running.send(()).expect("the test waits");
        while !cx.is_cancelled() {
            std::thread::yield_now();
        }
        stopped.send(()).expect("the test waits");
    });
    let handle = tasks.try_add(task).expect("the supervisor is open");
    soon(runs).await.expect("it runs");
    assert_aborts(&supervisor, handle).await;
    stops
        .recv_timeout(PATIENCE)
        .expect("its context is cancelled");
}

#[tokio::test]
async fn a_task_that_has_ended_keeps_its_outcome() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    let handle = tasks.try_add(ready(())).expect("the supervisor is open");
    soon(supervisor.idle()).await;
    // The entry of the ended task is used again, and the new task must not be aborted.
    let next = tasks.try_add(ready(())).expect("the supervisor is open");
    handle.abort();
    assert_eq!(
        (label(handle).await, label(next).await),
        ("succeeded", "succeeded")
    );
}

#[tokio::test]
async fn a_refused_task_is_given_back() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    soon(supervisor.shutdown(Duration::ZERO)).await;
    let refused = tasks
        .try_add(Task::new(async {}).named("late"))
        .expect_err("the supervisor was shut down");
    assert_eq!(
        refused.to_string(),
        "the task `late` was refused: its supervisor was shut down; call `shutdown` after \
         the server has stopped"
    );
    assert_eq!(
        (supervisor.stats().refused, supervisor.stats().added()),
        (1, 0)
    );
    // Another supervisor takes it.
    let other = BackgroundTasks::for_test();
    other.add(refused.into_task());
    assert_eq!(other.names(), [Some("late".to_owned())]);
}
