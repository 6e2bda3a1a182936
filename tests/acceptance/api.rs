//! Short names for what many of these tests do with the API.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tower_background::{
    BackgroundLayer, Observer, ResponseEnd, Stats, Supervisor, Task, TaskContext, TaskOutput,
    report::{RequestReport, TaskInfo, TaskReport},
};

pub(crate) use tower_background::{
    EndKind,
    EndKind::{
        Complete as COMPLETE, Failed as FAILED, Interrupted as INTERRUPTED, Panicked as PANICKED,
    },
};

pub(crate) fn layer(supervisor: &Supervisor) -> BackgroundLayer {
    BackgroundLayer::with_supervisor(supervisor.clone())
}

/// The end that a task of a request sees.
pub(crate) fn end(cx: &TaskContext) -> &ResponseEnd {
    cx.end().expect("it is a task of a request")
}

pub(crate) fn blocking<T: TaskOutput>(work: impl FnOnce() -> T + Send + 'static) -> Task {
    Task::blocking(work)
}

/// The tasks that have not ended.
pub(crate) fn tasks(supervisor: &Supervisor) -> Vec<TaskInfo> {
    supervisor.tasks()
}

pub(crate) const fn deferred(stats: &Stats) -> u64 {
    stats.deferred
}

pub(crate) const fn queued(stats: &Stats) -> u64 {
    stats.queued
}

pub(crate) const fn aborted(stats: &Stats) -> u64 {
    stats.aborted
}

pub(crate) const fn removed(stats: &Stats) -> u64 {
    stats.removed
}

/// An observer that notes the names of the tasks that ended, and how many failures the reports of requests have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    ended: Arc<Mutex<Vec<String>>>,
    pub(crate) reports: Arc<AtomicUsize>,
    pub(crate) reported_failures: Arc<AtomicUsize>,
}

impl Watch {
    /// Whether the end of a task with this name was reported.
    pub(crate) fn has_ended(&self, name: &str) -> bool {
        self.ended
            .lock()
            .expect("no observer panics")
            .iter()
            .any(|ended| ended == name)
    }
}

impl Observer for Watch {
    fn on_task_end(&self, report: &TaskReport) {
        if let Some(name) = report.name() {
            self.ended
                .lock()
                .expect("no observer panics")
                .push(name.to_owned());
        }
    }

    fn on_request_done(&self, report: &RequestReport) {
        self.reports.fetch_add(1, Ordering::SeqCst);
        self.reported_failures
            .fetch_add(report.failures().len(), Ordering::SeqCst);
    }
}
