//! [`Observer`]: sees how responses and tasks end.

use std::sync::Arc;

use super::report::{RequestReport, ShutdownReport, TaskInfo, TaskReport};
use crate::{response::ResponseEnd, util::catch_and_log};

/// Sees how responses end, and how tasks start and end.
///
/// Every method does nothing unless you implement it. A method runs where the event happens, which
/// can be the thread that serves the connection, so it should be quick. A panic in it is logged,
/// and it changes nothing else.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_background::{Observer, Supervisor, report::TaskReport};
///
/// #[derive(Default)]
/// struct Recorder(Mutex<Vec<String>>);
///
/// impl Observer for Recorder {
///     fn on_task_end(&self, report: &TaskReport) {
///         self.0.lock().unwrap().push(report.outcome().to_string());
///     }
/// }
///
/// let recorder = Arc::new(Recorder::default());
/// let supervisor = Supervisor::builder().observer(recorder.clone()).build();
/// # drop(supervisor);
/// ```
pub trait Observer: Send + Sync {
    /// A response ended. This is called for every request, also for one that left no task.
    fn on_response_end(&self, _end: &ResponseEnd) {}

    /// A task starts to run.
    fn on_task_start(&self, _task: &TaskInfo) {}

    /// A task ended, in whatever way, also if it never started.
    fn on_task_end(&self, _report: &TaskReport) {}

    /// All tasks of a request have ended. If the request adds further tasks after that, this is
    /// called again for those.
    fn on_request_done(&self, _report: &RequestReport) {}

    /// The supervisor was shut down.
    fn on_shutdown(&self, _report: &ShutdownReport) {}
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on_response_end(&self, end: &ResponseEnd) {
        (**self).on_response_end(end);
    }

    fn on_task_start(&self, task: &TaskInfo) {
        (**self).on_task_start(task);
    }

    fn on_task_end(&self, report: &TaskReport) {
        (**self).on_task_end(report);
    }

    fn on_request_done(&self, report: &RequestReport) {
        (**self).on_request_done(report);
    }

    fn on_shutdown(&self, report: &ShutdownReport) {
        (**self).on_shutdown(report);
    }
}

/// All observers of a supervisor.
#[derive(Default)]
pub(crate) struct Observers(Vec<Box<dyn Observer>>);

impl Observers {
    pub(super) fn push(&mut self, observer: impl Observer + 'static) {
        self.0.push(Box::new(observer));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `call` with each observer.
    pub(crate) fn notify(&self, call: impl Fn(&dyn Observer)) {
        for observer in &self.0 {
            catch_and_log("an observer", || call(&**observer));
        }
    }
}
