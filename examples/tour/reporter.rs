//! The observer: turns the reports of the supervisor into news for the page.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tower_background::{
    Observer, Outcome, ResponseEnd,
    report::{ShutdownReport, TaskInfo, TaskReport},
};

use crate::news::News;

pub(crate) struct Reporter(pub(crate) Arc<News>);

impl Observer for Reporter {
    fn on_response_end(&self, end: &ResponseEnd) {
        self.0.tell(
            "over",
            json!({
                "request": request(end.path()),
                "end": format!("{:?}", end.kind()),
                "status": end.status().map(|status| status.as_u16()),
                "bytes": end.bytes(),
                "head": end.time_to_head().map(milliseconds),
                "elapsed": milliseconds(end.elapsed()),
            }),
        );
    }

    fn on_task_start(&self, task: &TaskInfo) {
        self.0.tell("started", named(task.name(), task.path()));
    }

    fn on_task_end(&self, report: &TaskReport) {
        let mut fact = named(report.name(), report.end().map(ResponseEnd::path));
        fact["outcome"] = json!(report.outcome().label());
        fact["reason"] = match report.outcome() {
            Outcome::Failed(error) => json!(error.to_string()),
            Outcome::Panicked(message) => json!(message),
            _ => Value::Null,
        };
        fact["waited"] = json!(milliseconds(report.waited()));
        fact["ran"] = json!(report.ran().map(milliseconds));
        self.0.tell("ended", fact);
    }

    fn on_shutdown(&self, report: &ShutdownReport) {
        let abandoned: Vec<_> = report.abandoned().iter().map(running).collect();
        self.0.tell(
            "shutdown",
            json!({
                "clean": report.is_clean(),
                "finished": report.finished(),
                "fell_back": report.fell_back(),
                "cancelled": report.cancelled(),
                "abandoned": abandoned,
                "open": report.open_responses(),
            }),
        );
    }
}

/// A task as it stands now.
pub(crate) fn running(task: &TaskInfo) -> Value {
    let mut fact = named(task.name(), task.path());
    fact["state"] = json!(format!("{:?}", task.state()).to_lowercase());
    fact["age"] = json!(milliseconds(task.age()));
    fact
}

fn named(name: Option<&str>, path: Option<&str>) -> Value {
    let (task, request) = owner(name, path);
    json!({ "task": task, "request": request })
}

/// Returns the name of a task and the id of its request. A task without a request has the id in its
/// name, as in `conversation#7`.
pub(crate) fn owner<'a>(name: Option<&'a str>, path: Option<&'a str>) -> (&'a str, &'a str) {
    let name = name.unwrap_or_default();
    name.split_once('#')
        .unwrap_or((name, path.map_or("", request)))
}

/// Returns the id of a request: the page puts it at the end of each path.
pub(crate) fn request(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
