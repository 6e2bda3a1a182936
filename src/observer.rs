//! [`Observer`]: sees how responses and tasks end.

use crate::{
    end::ResponseEnd,
    panics::quietly,
    report::{BatchReport, RunningTask, TaskReport},
    shutdown::ShutdownReport,
};

/// Sees how responses end, and how tasks start and end.
///
/// Every method does nothing unless it is implemented. They are called where the thing happens, so also on the server's
/// threads: they should be quick. A panic in one is logged, and changes nothing else.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_background::{Observer, Supervisor, TaskReport};
///
/// #[derive(Default)]
/// struct Recorder(Mutex<Vec<String>>);
///
/// impl Observer for Recorder {
///     fn task_ended(&self, report: &TaskReport) {
///         self.0.lock().unwrap().push(report.outcome().to_string());
///     }
/// }
///
/// let recorder = Arc::new(Recorder::default());
/// let supervisor = Supervisor::builder().observer(recorder.clone()).build();
/// # drop(supervisor);
/// ```
pub trait Observer: Send + Sync {
    /// A response was over. Called for every request, also for those that left no task.
    fn response_ended(&self, _end: &ResponseEnd) {}

    /// A task started.
    fn task_started(&self, _task: &RunningTask) {}

    /// A task ended, in whatever way; also if it was refused or never started.
    fn task_ended(&self, _report: &TaskReport) {}

    /// All tasks of a request have ended.
    fn batch_ended(&self, _report: &BatchReport) {}

    /// The supervisor was shut down.
    fn shutdown(&self, _report: &ShutdownReport) {}
}

impl<O: Observer + ?Sized> Observer for std::sync::Arc<O> {
    fn response_ended(&self, end: &ResponseEnd) {
        (**self).response_ended(end);
    }

    fn task_started(&self, task: &RunningTask) {
        (**self).task_started(task);
    }

    fn task_ended(&self, report: &TaskReport) {
        (**self).task_ended(report);
    }

    fn batch_ended(&self, report: &BatchReport) {
        (**self).batch_ended(report);
    }

    fn shutdown(&self, report: &ShutdownReport) {
        (**self).shutdown(report);
    }
}

/// All observers of a supervisor.
#[derive(Default)]
pub(crate) struct Observers(pub(crate) Vec<Box<dyn Observer>>);

impl Observers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells each of them.
    pub(crate) fn tell(&self, what: impl Fn(&dyn Observer)) {
        for observer in &self.0 {
            quietly("an observer", || what(&**observer));
        }
    }
}
