//! Reads the ERROR event of a refused task. Observers do not see refused tasks.

use std::{fmt, sync::Arc};

use serde_json::json;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use crate::{news::News, reporter::owner};

pub(crate) struct Refusals(pub(crate) Arc<News>);

impl<S: Subscriber> Layer<S> for Refusals {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.message.starts_with("a background task was refused") {
            let (task, request) = owner(Some(&fields.task), Some(&fields.path));
            self.0.tell(
                "ended",
                json!({ "task": task, "request": request, "outcome": "refused" }),
            );
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    task: String,
    path: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "task" => value.clone_into(&mut self.task),
            "path" => value.clone_into(&mut self.path),
            _ => {}
        }
    }
}
