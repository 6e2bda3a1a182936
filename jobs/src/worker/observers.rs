//! Tells the functions and observers of the user how jobs start and end.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use tower_background::{
    Observer, Outcome,
    report::{TaskInfo, TaskReport},
};

use super::JobReport;

type OnEnd = dyn Fn(&JobReport) + Send + Sync;

/// Everything that was given to `on_end` and `observer`.
#[derive(Clone, Default)]
pub(super) struct Observers {
    on_end: Vec<Arc<OnEnd>>,
    observers: Vec<Arc<dyn Observer>>,
}

impl Observers {
    pub(super) fn on_end(&mut self, function: impl Fn(&JobReport) + Send + Sync + 'static) {
        self.on_end.push(Arc::new(function));
    }

    pub(super) fn observer(&mut self, observer: impl Observer + 'static) {
        self.observers.push(Arc::new(observer));
    }

    /// Whether the errors of jobs are needed, and not only their texts.
    pub(super) fn need_errors(&self) -> bool {
        !self.observers.is_empty()
    }

    pub(super) fn started(&self, queue: &str, waited: Duration) {
        if self.observers.is_empty() {
            return;
        }
        let info = TaskInfo::running(queue.to_owned(), waited);
        for observer in &self.observers {
            caught(|| observer.on_task_start(&info));
        }
    }

    pub(super) fn ended(&self, queue: &str, report: &JobReport, outcome: Option<Outcome>) {
        for function in &self.on_end {
            caught(|| function(report));
        }
        if let Some(outcome) = outcome.filter(|_| !self.observers.is_empty()) {
            let report = TaskReport::new(queue.to_owned(), outcome, report.waited, report.ran);
            for observer in &self.observers {
                caught(|| observer.on_task_end(&report));
            }
        }
    }
}

/// A panic ends this call alone.
fn caught(call: impl FnOnce()) {
    if std::panic::catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("an observer of jobs panicked");
    }
}
