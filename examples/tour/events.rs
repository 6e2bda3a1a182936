//! Reads two log events: a refused task, which observers do not see, and what a task says about its user.

use std::{fmt, sync::Arc};

use serde_json::json;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use crate::{news::News, reporter::owner};

pub(crate) struct Events(pub(crate) Arc<News>);

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.message.starts_with("a background task was refused") {
            let (task, request) = owner(Some(&fields.task), Some(&fields.path));
            self.0.tell(
                "ended",
                json!({ "task": task, "request": request, "outcome": "refused" }),
            );
        } else if let Some(user) = fields.message.strip_prefix("hello ") {
            self.0.tell(
                "greeted",
                json!({ "user": user, "request": fields.request }),
            );
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    task: String,
    path: String,
    request: String,
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
            "request" => value.clone_into(&mut self.request),
            _ => {}
        }
    }
}
