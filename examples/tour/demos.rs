//! The handlers that the page calls. Each leaves tasks; the page shows these very lines.

use std::{convert::Infallible, future::pending, sync::Arc, thread, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::request::Parts,
    response::Response,
    routing::get,
};
use serde_json::json;
use tokio::time::sleep;
use tower_background::{BackgroundTasks, MissingLayer, Task, When};

use crate::{news::News, reporter};

/// How much the slow reader is sent.
pub(crate) const SLOW_BYTES: usize = 1024 * 1024;
/// What it is sent, again and again.
static PIECE: [u8; 32 * 1024] = [b'.'; 32 * 1024];

pub(crate) fn router(news: Arc<News>) -> Router {
    Router::new()
        .route("/demo/quick/{request}", get(quick))
        .route("/demo/stream/{request}", get(stream))
        .route("/demo/slow/{request}", get(slow))
        .route("/demo/abort/{request}", get(abort))
        .route("/demo/fail/{request}", get(fail))
        .route("/demo/panic/{request}", get(panic))
        .route("/demo/blocking/{request}", get(blocking))
        .route("/demo/burst/{request}", get(burst))
        .route("/demo/shutdown/{request}", get(shutdown))
        .layer(Extension(news))
}

/// The source of a handler, for the page.
pub(crate) fn source(handler: &str) -> Option<&'static str> {
    let text = include_str!("demos.rs");
    let start = text.find(&format!("\nasync fn {handler}("))? + 1;
    let length = text[start..].find("\n}\n")? + 2;
    Some(&text[start..start + length])
}

async fn quick(tasks: Tour) -> &'static str {
    tasks.add("welcome-mail", Task::new(work(700)));
    tasks.add("audit-log", Task::new(work(250)));
    "Welcome! A mail is on its way.\n"
}

async fn stream(tasks: Tour) -> Response {
    tasks.add("count-usage", Task::new(work(400)));
    lines(6, ms(180)) // no task starts before the last line was sent
}

async fn slow(tasks: Tour) -> Response {
    tasks.add("count-download", Task::new(work(400)));
    pieces(SLOW_BYTES) // the end comes when the client has let it
}

async fn abort(tasks: Tour) -> Response {
    tasks.add("receipt", Task::new(work(400)).when(When::Delivered));
    tasks.add("clean-up", Task::new(work(500))); // by default: whatever the client did
    lines(20, ms(180))
}

async fn fail(tasks: Tour) -> &'static str {
    tasks.add("webhook", Task::new(async { Err("no such host") }));
    tasks.add("report", Task::new(work(60_000)).timeout(ms(600)));
    tasks.add("audit-log", Task::new(work(300)));
    "Done, whatever becomes of the rest.\n"
}

async fn panic(tasks: Tour) -> &'static str {
    tasks.add("thumbnail", Task::new(async { shrink(&[]) }));
    tasks.add("audit-log", Task::new(work(300)));
    "Your image is stored.\n"
}

fn shrink(pixels: &[u8]) {
    assert!(!pixels.is_empty(), "the image has no pixels");
}

async fn blocking(tasks: Tour) -> &'static str {
    // `max_blocking` is 1 here, so the second function waits.
    tasks.add("hash-password", Task::blocking(|| thread::sleep(ms(600))));
    tasks.add("zip-files", Task::blocking(|| thread::sleep(ms(600))));
    tasks.add("audit-log", Task::new(work(250)));
    "No thread that serves requests is held up.\n"
}

async fn burst(tasks: Tour) -> &'static str {
    // 3 tasks run at once, the rest waits in line.
    // With 8 left the layer is not ready, and `load_shed` answers 503.
    tasks.add("resize", Task::new(work(900)));
    "One of many.\n"
}

async fn shutdown(tasks: Tour) -> &'static str {
    tasks.add("short", Task::new(work(500))); // ends within the grace
    tasks.add("polite", Task::with_context(|cx| async move { cx.cancelled().await })); // ends when told to
    tasks.add("stubborn", Task::new(pending::<()>())); // is dropped, and named in the report
    "Good night.\n"
}

/// The request's registry, which also tells the page what was added. A handler of your own takes `BackgroundTasks`.
struct Tour {
    request: String,
    tasks: BackgroundTasks,
    news: Arc<News>,
}

impl Tour {
    fn add(&self, name: &str, task: Task) {
        self.news.tell("added", json!({ "task": name, "request": self.request }));
        if self.tasks.try_add(task.named(format!("{name}#{}", self.request))).is_err() {
            // Observers do not see a refused task.
            self.news.tell("ended", json!({ "task": name, "request": self.request, "outcome": "refused" }));
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Tour {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, MissingLayer> {
        let request = reporter::request(parts.uri.path()).to_owned();
        let news = parts.extensions.get::<Arc<News>>().cloned().expect("the router has it");
        Ok(Self { request, tasks: BackgroundTasks::from_request_parts(parts, state).await?, news })
    }
}

/// Takes this long, in milliseconds, from its start on: a bare `sleep` counts from the call, which is in the handler.
async fn work(milliseconds: u64) {
    sleep(ms(milliseconds)).await;
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A body of some lines, one at a time.
fn lines(count: usize, pause: Duration) -> Response {
    Response::new(Body::from_stream(async_stream::stream! {
        for line in 1..=count {
            yield Ok::<_, Infallible>(Bytes::from(format!("line {line} of {count}\n")));
            if line < count {
                sleep(pause).await;
            }
        }
    }))
}

/// A body of this many bytes, which are made as the client takes them.
fn pieces(bytes: usize) -> Response {
    Response::new(Body::from_stream(async_stream::stream! {
        for _ in 0..bytes / PIECE.len() {
            yield Ok::<_, Infallible>(Bytes::from_static(&PIECE));
        }
    }))
}
