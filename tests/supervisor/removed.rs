//! A task that waits for a permit is removed while a blocking task that has timed out holds the
//! permit. `idle` and `shutdown` wait until the removed task is dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use futures_util::future::poll_immediate;
use tokio::sync::oneshot;
use tower_background::{BackgroundTasks, Supervisor, Task};

use crate::common::{PATIENCE, Recorder, answered, settle, soon, until};

/// A value that notes its drop.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Two blocking tasks under a limit of one. The first has timed out and holds the permit, and the
/// second waits for it.
pub(crate) struct TimedOut {
    pub(crate) supervisor: Supervisor,
    tasks: BackgroundTasks,
    recorder: Recorder,
    end_first: Option<mpsc::Sender<()>>,
    second_dropped: Arc<AtomicBool>,
}

impl TimedOut {
    pub(crate) async fn new() -> Self {
        let recorder = Recorder::default();
        let supervisor = Supervisor::builder()
            .max_blocking(1)
            .observer(recorder.clone())
            .build();
        let tasks = answered(&supervisor, "/").await;
        let (starts, started) = oneshot::channel();
        let (end_first, waiting) = mpsc::channel::<()>();
        let first = Task::blocking(move || {
            starts.send(()).expect("the test waits");
            let _ = waiting.recv();
        });
        // The clock stands still until the task runs. A timeout before that would return the
        // permit.
        tokio::time::pause();
        tasks.add(first.named("first").timeout(Duration::from_millis(1)));
        soon(started).await.expect("the first task starts");
        tokio::time::resume();
        until(async || {
            supervisor.stats().timed_out == 1 && has_ended(&recorder, "first timed out")
        })
        .await;
        let second_dropped = Arc::new(AtomicBool::new(false));
        let held = Dropped(second_dropped.clone());
        tasks.add(Task::blocking(move || drop(held)).named("second"));
        settle().await;
        assert!(
            !second_dropped.load(SeqCst) && supervisor.stats().queued == 1,
            "the second task waits"
        );
        Self {
            supervisor,
            tasks,
            recorder,
            end_first: Some(end_first),
            second_dropped,
        }
    }

    pub(crate) fn remove_second(&self) {
        assert_eq!(self.tasks.remove("second"), 1);
    }

    pub(crate) fn end_first(&mut self) {
        // The blocking task waits until the sender is dropped.
        self.end_first = None;
    }

    fn assert_second_is_over(&self) {
        assert!(
            self.second_dropped.load(SeqCst),
            "the removed task should have been dropped"
        );
        assert!(
            has_ended(&self.recorder, "second removed"),
            "the observer should know of the removed task"
        );
        let stats = self.supervisor.stats();
        assert_eq!(
            (stats.pending(), stats.removed, stats.added()),
            (0, 1, 2),
            "{stats:?}"
        );
        assert_eq!((stats.deferred, stats.queued, stats.running), (0, 0, 0));
    }
}

fn has_ended(recorder: &Recorder, task: &str) -> bool {
    recorder.lines().contains(&format!("ended {task}"))
}

#[tokio::test]
async fn idle_waits_for_the_drop_of_a_removed_task() {
    let mut tasks = TimedOut::new().await;
    tasks.remove_second();
    // `idle` may return before the first task ends, but not before the second task is dropped.
    if poll_immediate(tasks.supervisor.idle()).await.is_some() {
        tasks.assert_second_is_over();
    }
    settle().await;
    if poll_immediate(tasks.supervisor.idle()).await.is_some() {
        tasks.assert_second_is_over();
    }
    tasks.end_first();
    soon(tasks.supervisor.idle()).await;
    tasks.assert_second_is_over();
}

#[tokio::test]
async fn a_clean_shutdown_waits_for_the_drop_of_a_removed_task() {
    let mut tasks = TimedOut::new().await;
    tasks.remove_second();
    let supervisor = tasks.supervisor.clone();
    let shutdown = tokio::spawn(async move { supervisor.shutdown(PATIENCE).await });
    settle().await;
    if shutdown.is_finished() {
        tasks.assert_second_is_over();
    }
    tasks.end_first();
    assert!(soon(shutdown).await.expect("it does not panic").is_clean());
    tasks.assert_second_is_over();
}
