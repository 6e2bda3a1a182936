//! An observer that writes down what it is told.

use std::sync::{Arc, Mutex, MutexGuard};

use tower_background::{BatchReport, Observer, ResponseEnd, RunningTask, ShutdownReport, TaskReport};

/// Each event as a line.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// What was told so far.
    pub fn lines(&self) -> Vec<String> {
        self.events().clone()
    }

    /// What was told so far and starts with this word.
    pub fn told(&self, word: &str) -> Vec<String> {
        self.events().iter().filter(|line| line.split(' ').next() == Some(word)).cloned().collect()
    }

    fn events(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("no event panics")
    }
}

impl Observer for Recorder {
    fn response_ended(&self, end: &ResponseEnd) {
        self.events().push(format!("response {} {} {:?}", end.method(), end.path(), end.kind()));
    }

    fn task_started(&self, task: &RunningTask) {
        self.events().push(format!("started {}", task.name().unwrap_or("-")));
    }

    fn task_ended(&self, report: &TaskReport) {
        self.events().push(format!("ended {} {}", report.name().unwrap_or("-"), report.outcome()));
    }

    fn batch_ended(&self, report: &BatchReport) {
        let outcomes: Vec<_> =
            report.tasks().iter().map(|task| format!("{}={}", task.name().unwrap_or("-"), task.outcome().label())).collect();
        self.events().push(format!("batch {} {}", report.end().path(), outcomes.join(",")));
    }

    fn shutdown(&self, report: &ShutdownReport) {
        self.events().push(format!("shutdown {} {} {}", report.finished(), report.cancelled(), report.abandoned().len()));
    }
}
