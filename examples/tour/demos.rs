//! The handlers that the page calls. The page shows their source, cut out of this file.

use std::{convert::Infallible, future::pending, thread, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{
        Path, Request, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    handler::Handler,
    http::HeaderMap,
    middleware::{Next, from_fn},
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{any, get},
};
use futures_util::{Stream, StreamExt};
use tokio::time::{interval, sleep};
use tokio_stream::wrappers::IntervalStream;
use tower_background::{
    BackgroundTasks, Capture, Limit, Scope, Supervisor, Task, When, report::ShutdownReport,
};
use tracing::info;

/// How many bytes the slow reader gets.
pub(crate) const SLOW_BYTES: usize = 1024 * 1024;
/// The part of which that body consists.
static PIECE: [u8; 32 * 1024] = [b'.'; 32 * 1024];

/// How long tasks may go on after the start of a shutdown.
pub(crate) const GRACE: Duration = Duration::from_millis(1200);

/// How many mails the mail server takes at once.
const SMTP_CONNECTIONS: usize = 2;

/// The items that the page shows for each handler: the handler itself, and what it uses.
const SHOWN: [(&str, &[&str]); 15] = [
    ("quick", &["quick"]),
    ("stream", &["stream"]),
    ("slow", &["slow"]),
    ("abort", &["abort"]),
    ("fail", &["fail"]),
    ("panic", &["panic", "shrink"]),
    ("blocking", &["blocking"]),
    ("burst", &["burst"]),
    ("limit", &["limit"]),
    ("unique", &["unique"]),
    (
        "context",
        &[
            "context",
            "greet",
            "as_user",
            "impl Capture for User",
            "impl Scope for UserScope",
        ],
    ),
    ("socket", &["socket", "talk"]),
    ("feed", &["feed", "shut_down"]),
    (
        "fallback",
        &["fallback", "send_mail", "store_mail", "shut_down"],
    ),
    ("shutdown", &["shutdown", "shut_down"]),
];

pub(crate) fn router() -> Router {
    Router::new()
        .route("/demo/quick/{request}", get(quick))
        .route("/demo/stream/{request}", get(stream))
        .route("/demo/slow/{request}", get(slow))
        .route("/demo/abort/{request}", get(abort))
        .route("/demo/fail/{request}", get(fail))
        .route("/demo/panic/{request}", get(panic))
        .route("/demo/blocking/{request}", get(blocking))
        .route("/demo/burst/{request}", get(burst))
        .route("/demo/limit/{request}", get(limit))
        .route("/demo/unique/{request}", get(unique))
        .route(
            "/demo/context/{request}",
            get(context.layer(from_fn(as_user))),
        )
        .route("/demo/socket/{request}", any(socket))
        .route("/demo/feed/{request}", get(feed))
        .route("/demo/fallback/{request}", get(fallback))
        .route("/demo/shutdown/{request}", get(shutdown))
        .with_state(Limit::new(SMTP_CONNECTIONS))
}

/// Returns the source of a handler, and of the items that explain it.
pub(crate) fn source(handler: &str) -> Option<String> {
    let (_, items) = SHOWN.iter().find(|(name, _)| *name == handler)?;
    let sources: Option<Vec<_>> = items.iter().map(|item| cut_out(item)).collect();
    Some(sources?.join("\n"))
}

/// Cuts one item out of this file: a function by its name, an implementation by its head.
fn cut_out(item: &str) -> Option<&'static str> {
    let text = include_str!("demos.rs");
    let name = text
        .find(&format!("fn {item}("))
        .or_else(|| text.find(&format!("{item} {{")))?;
    let start = text[..name].rfind('\n')? + 1;
    let length = text[start..].find("\n}\n")? + 3;
    Some(&text[start..start + length])
}

async fn quick(tasks: BackgroundTasks) -> &'static str {
    tasks.add(Task::new(work(700)).named("welcome-mail"));
    tasks.add(Task::new(work(250)).named("audit-log"));
    "Welcome! A mail is on its way.\n"
}

async fn stream(tasks: BackgroundTasks) -> Response {
    // The task starts after the last line, not after the head.
    tasks.add(Task::new(work(400)).named("count-usage"));
    lines(6, ms(180))
}

async fn slow(tasks: BackgroundTasks) -> Response {
    // The server takes the body only as fast as the client reads it.
    tasks.add(Task::new(work(400)).named("count-download"));
    pieces(SLOW_BYTES)
}

async fn abort(tasks: BackgroundTasks) -> Response {
    tasks.add(Task::new(work(400)).named("receipt").when(When::Delivered));
    // The default is `When::Responded`: it also runs if the client leaves after the head.
    tasks.add(Task::new(work(500)).named("clean-up"));
    lines(20, ms(180))
}

async fn fail(tasks: BackgroundTasks) -> &'static str {
    tasks.add(Task::new(async { Err("no such host") }).named("webhook"));
    tasks.add(Task::new(work(60_000)).named("report").timeout(ms(600)));
    tasks.add(Task::new(work(300)).named("audit-log"));
    "Done.\n"
}

async fn panic(tasks: BackgroundTasks) -> &'static str {
    tasks.add(Task::new(async { shrink(&[]) }).named("thumbnail"));
    tasks.add(Task::new(work(300)).named("audit-log"));
    "Your image is stored.\n"
}

fn shrink(pixels: &[u8]) {
    assert!(!pixels.is_empty(), "the image has no pixels");
}

async fn blocking(tasks: BackgroundTasks) -> &'static str {
    // `max_blocking` is 1 here, so the second function waits for the first.
    tasks.add(Task::blocking(|| thread::sleep(ms(600))).named("hash-password"));
    tasks.add(Task::blocking(|| thread::sleep(ms(600))).named("zip-files"));
    tasks.add(Task::new(work(250)).named("audit-log"));
    "Blocking tasks hold up no other request.\n"
}

async fn burst(tasks: BackgroundTasks) -> &'static str {
    // `max_concurrent` is 3 here, so the other tasks wait for a permit.
    // `max_pending` is 8: then the service is not ready, and `load_shed` answers 503.
    tasks.add(Task::new(work(900)).named("resize"));
    "One of many.\n"
}

async fn limit(tasks: BackgroundTasks, State(smtp): State<Limit>) -> &'static str {
    // `smtp` is `Limit::new(2)`: the mail server takes two connections.
    for mail in ["mail-1", "mail-2", "mail-3", "mail-4"] {
        tasks.add(Task::new(work(600)).named(mail).limit(&smtp));
    }
    // This task has no limit, so it does not wait for the mails.
    tasks.add(Task::new(work(300)).named("audit-log"));
    "Four mails are on their way.\n"
}

async fn unique(tasks: BackgroundTasks) -> &'static str {
    // Each request finds that the prices are stale. One task refreshes them.
    tasks.add(
        Task::new(work(900))
            .named("refresh")
            .unique("refresh-prices"),
    );
    "12.50\n" // from the stale cache
}

async fn context(tasks: BackgroundTasks, Path(request): Path<String>) -> &'static str {
    // The supervisor was built with `.capture(User)`, so the task runs as the user of the handler.
    tasks.add(Task::new(greet(request)).named("mail"));
    "A mail is on its way.\n"
}

async fn greet(request: String) {
    sleep(ms(600)).await; // the handler has ended long ago
    info!(request, "hello {}", USER.get());
}

async fn as_user(headers: HeaderMap, request: Request, next: Next) -> Response {
    let user = headers["x-user"].to_str().unwrap_or_default().to_owned();
    USER.scope(user, next.run(request)).await
}

tokio::task_local!(static USER: String);

/// Takes the user of a request into the tasks of this request.
pub(crate) struct User;

struct UserScope(Option<String>);

impl Capture for User {
    fn capture(&self) -> Box<dyn Scope> {
        Box::new(UserScope(USER.try_with(Clone::clone).ok()))
    }
}

impl Scope for UserScope {
    fn enter(&self, poll: &mut dyn FnMut()) {
        match &self.0 {
            Some(user) => USER.sync_scope(user.clone(), poll),
            None => poll(),
        }
    }
}

async fn socket(
    tasks: BackgroundTasks,
    Path(id): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    // The response is over at the upgrade, so this task starts before the conversation ends.
    tasks.add(Task::new(work(300)).named("count-visit"));
    let supervisor = tasks.supervisor().clone();
    upgrade.on_upgrade(async move |socket| {
        // The conversation is a task too, so the supervisor lists it, and a shutdown waits for it.
        let conversation = Task::new(talk(socket)).named(format!("conversation#{id}"));
        // After a shutdown `spawn` gives the task back. Dropping it closes the socket.
        drop(supervisor.spawn(conversation));
    })
}

async fn talk(mut socket: WebSocket) {
    while let Some(Ok(Message::Text(question))) = socket.recv().await {
        if socket.send(Message::Text(question)).await.is_err() {
            break;
        }
    }
}

async fn feed(tasks: BackgroundTasks) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    tasks.add(Task::new(work(400)).named("save-position"));
    let events = IntervalStream::new(interval(ms(180))).map(|_| Ok(Event::default().data("news")));
    // The stream has no end, so it stops when the shutdown begins.
    Sse::new(events.take_until(tasks.stopping()))
}

async fn fallback(tasks: BackgroundTasks) -> &'static str {
    // If the grace ends before the mail is sent, the mail is stored instead.
    tasks.add(
        Task::new(send_mail())
            .named("mail")
            .shutdown_fallback(store_mail()),
    );
    tasks.add(Task::new(work(500)).named("audit-log"));
    "Welcome!\n"
}

async fn send_mail() {
    sleep(ms(60_000)).await; // the mail server does not answer
}

async fn store_mail() {
    sleep(ms(200)).await;
}

async fn shutdown(tasks: BackgroundTasks) -> &'static str {
    let stopping = tasks.stopping();
    let short = async move {
        stopping.await;
        work(500).await; // ends within the grace
    };
    tasks.add(Task::new(short).named("short"));
    tasks.add(Task::with_context(|cx| async move { cx.cancelled().await }).named("polite"));
    tasks.add(Task::new(pending::<()>()).named("stubborn")); // is aborted, and the report names it
    "Good night.\n"
}

pub(crate) async fn shut_down(supervisor: &Supervisor) -> ShutdownReport {
    supervisor.begin_shutdown(); // `tasks.stopping()` ends, and with it endless streams
    supervisor.shutdown(GRACE).await // waits, cancels after the grace, aborts after `abort_after`
}

/// Takes this many milliseconds from its first poll on. A bare `sleep` would count from the call.
async fn work(milliseconds: u64) {
    sleep(ms(milliseconds)).await;
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Returns a body of some lines, with a pause between them.
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

/// Returns a body of this many bytes, each part made when the server asks for it.
fn pieces(bytes: usize) -> Response {
    Response::new(Body::from_stream(async_stream::stream! {
        for _ in 0..bytes / PIECE.len() {
            yield Ok::<_, Infallible>(Bytes::from_static(&PIECE));
        }
    }))
}
