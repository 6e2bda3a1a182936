//! An observer that records each event as a line.

use std::sync::{Arc, Mutex, MutexGuard};

use tower_background::{
    Observer, ResponseEnd, Stats,
    report::{RequestReport, ShutdownReport, TaskInfo, TaskReport},
};

/// Each event as a line.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// All events so far.
    pub fn lines(&self) -> Vec<String> {
        self.events().clone()
    }

    /// The events so far that start with this word.
    pub fn lines_of(&self, word: &str) -> Vec<String> {
        self.events()
            .iter()
            .filter(|line| line.split(' ').next() == Some(word))
            .cloned()
            .collect()
    }

    fn events(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("no event panics")
    }
}

impl Observer for Recorder {
    fn on_response_end(&self, end: &ResponseEnd) {
        self.events().push(format!(
            "response {} {} {:?}",
            end.method(),
            end.path(),
            end.kind()
        ));
    }

    fn on_task_start(&self, task: &TaskInfo) {
        self.events()
            .push(format!("started {}", task.name().unwrap_or("-")));
    }

    fn on_task_end(&self, report: &TaskReport) {
        self.events().push(format!(
            "ended {} {}",
            report.name().unwrap_or("-"),
            report.outcome()
        ));
    }

    fn on_request_done(&self, report: &RequestReport) {
        let path = report.end().map_or("-", ResponseEnd::path);
        self.events()
            .push(format!("done {path} {}", outcomes(report.stats())));
    }

    fn on_shutdown(&self, report: &ShutdownReport) {
        self.events().push(format!(
            "shutdown {} {} {}",
            report.finished(),
            report.cancelled(),
            report.abandoned().len()
        ));
    }
}

/// Returns how many tasks had each outcome.
pub fn outcome_counts(stats: &Stats) -> [(&'static str, u64); 8] {
    [
        ("succeeded", stats.succeeded),
        ("failed", stats.failed),
        ("panicked", stats.panicked),
        ("timed_out", stats.timed_out),
        ("aborted", stats.aborted),
        ("removed", stats.removed),
        ("skipped", stats.skipped),
        ("fell_back", stats.fell_back),
    ]
}

/// Returns the outcomes that tasks had, as `succeeded=2,failed=1`.
pub fn outcomes(stats: &Stats) -> String {
    let counts = outcome_counts(stats)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name}={count}"));
    counts.collect::<Vec<_>>().join(",")
}
