//! The observer: turns what the supervisor sees into news.

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
        self.0.tell("started", named(task.name()));
    }

    fn on_task_end(&self, report: &TaskReport) {
        let mut fact = named(report.name());
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
                "cancelled": report.cancelled(),
                "abandoned": abandoned,
                "open": report.open_responses(),
            }),
        );
    }
}

/// A task as it stands now.
pub(crate) fn running(task: &TaskInfo) -> Value {
    let mut fact = named(task.name());
    fact["state"] = json!(format!("{:?}", task.state()).to_lowercase());
    fact["age"] = json!(milliseconds(task.age()));
    fact
}

/// Takes a name apart. The tour names its tasks after their requests, as `welcome-mail#7`.
fn named(name: Option<&str>) -> Value {
    let (task, request) = name.and_then(|name| name.split_once('#')).unwrap_or_default();
    json!({ "task": task, "request": request })
}

/// The request's number, which the tour has at the end of each path.
pub(crate) fn request(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
