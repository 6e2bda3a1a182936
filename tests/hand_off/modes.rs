//! When a job is written, and when it is released, over real connections.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Body, middleware::Next, routing::get};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::service_fn;
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, HandOff, Supervisor, Task, When};

use crate::{
    support::{Raw, Server, settle},
    table::{Event, Table, serve, unavailable},
};

/// The body of the one response of a test, which the handler takes.
type Streamed = Arc<Mutex<Option<Body>>>;

/// A body whose end the test tells.
fn streamed() -> (mpsc::UnboundedSender<&'static str>, Streamed) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let body = Body::from_stream(UnboundedReceiverStream::new(receiver).map(Ok::<_, BoxError>));
    (sender, Arc::new(Mutex::new(Some(body))))
}

#[tokio::test]
async fn a_head_waits_for_its_durable_job() {
    let (supervisor, table) = (Supervisor::new(), Table::closed());
    let jobs = table.durable();
    let handler = get(async move |tasks: BackgroundTasks| {
        assert!(tasks.add(jobs.job("mail").named("welcome")));
        "welcome"
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(table.next().await, Event::Begun("mail"));
    assert_eq!((supervisor.stats().running, supervisor.open_responses()), (1, 1));
    assert_eq!(supervisor.running()[0].name(), Some("welcome"));
    settle().await;

    table.let_write(1);
    assert_eq!(table.next().await, Event::Written("mail"));
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(client.until("welcome").await, "welcome");
    supervisor.idle().await;
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().added()), (1, 1));
}

/// Nothing of the answer is on the wire while the job is not written: what the client reads first is the answer to the failure.
#[tokio::test]
async fn no_byte_of_a_head_precedes_its_job() {
    let (supervisor, table) = (Supervisor::new(), Table::closed());
    let jobs = table.durable();
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("mail"));
        "welcome"
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(table.next().await, Event::Begun("mail"));
    table.fail();
    table.let_write(1);
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    supervisor.idle().await;
}

#[tokio::test]
async fn a_held_job_is_released_after_the_end() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let jobs = table.held();
    let (body, stream) = streamed();
    let handler = get(move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("mail").named("welcome"));
        std::future::ready(stream.lock().unwrap().take().expect("there is one request"))
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    assert_eq!((table.next().await, table.next().await), (Event::Begun("mail"), Event::Written("mail")));
    settle().await;
    assert!(!table.has_more().await, "the response is open");
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().collected), (1, 1));

    body.send("last").unwrap();
    drop(body);
    client.until("\r\n0\r\n\r\n").await;
    assert_eq!(table.next().await, Event::Released("mail"));
    supervisor.idle().await;
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().succeeded), (1, 1));
}

/// What was written will be done, also if its client leaves: the release waits for no success.
#[tokio::test]
async fn a_held_job_is_released_whatever_the_end() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let jobs = table.held();
    let (body, stream) = streamed();
    let handler = get(move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("mail").when(When::Success));
        std::future::ready(stream.lock().unwrap().take().expect("there is one request"))
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    assert_eq!((table.next().await, table.next().await), (Event::Begun("mail"), Event::Written("mail")));
    client.reset();
    assert_eq!(table.next().await, Event::Released("mail"));
    drop(body);
    supervisor.idle().await;
}

/// A release comes first, and its failure skips nothing.
#[tokio::test]
async fn a_release_comes_before_other_tasks_and_fails_none() {
    let (supervisor, table) = (Supervisor::builder().order(tower_background::Order::FailFast).build(), Table::new());
    let jobs = table.held();
    let noted = table.clone();
    let failing = HandOff::held(service_fn(async |(): ()| Ok::<_, BoxError>(Unreachable)));
    let handler = get(move |tasks: BackgroundTasks| {
        let noted = noted.clone();
        tasks.add(async move { noted.note(Event::Begun("task")) });
        tasks.add(jobs.job("mail"));
        tasks.add(failing.job(()));
        async { "welcome" }
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    assert_eq!(server.get("/").await, (StatusCode::OK, "welcome".to_owned()));
    assert_eq!((table.next().await, table.next().await), (Event::Begun("mail"), Event::Written("mail")));
    assert_eq!((table.next().await, table.next().await), (Event::Released("mail"), Event::Begun("task")));
    supervisor.idle().await;
    let stats = supervisor.stats();
    assert_eq!((stats.handed_off, stats.failed, stats.succeeded, stats.skipped), (2, 1, 2, 0));
}

/// A receipt that can't be used.
struct Unreachable;

impl tower_background::Receipt for Unreachable {
    async fn release(self) -> Result<(), BoxError> {
        Err("the database is gone".into())
    }
}

#[tokio::test]
async fn a_lossy_job_is_written_after_the_end() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let jobs = table.lossy();
    let (body, stream) = streamed();
    let handler = get(move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("mail"));
        std::future::ready(stream.lock().unwrap().take().expect("there is one request"))
    });
    // It needs no head that waits.
    let server = Server::router(&supervisor, Router::new().route("/", handler)).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    settle().await;
    assert!(!table.has_more().await, "the response is open");
    drop(body);
    assert_eq!((table.next().await, table.next().await), (Event::Begun("mail"), Event::Written("mail")));
    supervisor.idle().await;
    assert_eq!(supervisor.stats().handed_off, 1);
}

/// After the head there is none to wait: the stream of a body, and a task, hand off after the end.
#[tokio::test]
async fn a_job_that_is_added_after_the_head_is_handed_off_after_the_end() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let (from_stream, from_task) = (table.durable(), table.held());
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(Task::with_context(async move |cx| {
            assert!(cx.tasks().add(from_task.job("of a task")));
        }));
        Body::from_stream(futures_util::stream::once(async move {
            assert!(tasks.add(from_stream.job("of the stream")));
            Ok::<_, BoxError>(Bytes::from("body"))
        }))
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    assert_eq!(server.get("/").await, (StatusCode::OK, "body".to_owned()));
    let mut events = Vec::new();
    for _ in 0..5 {
        events.push(table.next().await);
    }
    for written in [Event::Written("of the stream"), Event::Written("of a task"), Event::Released("of a task")] {
        assert!(events.contains(&written), "{written:?} of {events:?}");
    }
    supervisor.idle().await;
    assert_eq!(supervisor.stats().handed_off, 2);
}

/// The layer twice around one request, as nested routers have it: a job that comes between both is written before the head, too.
#[tokio::test]
async fn every_layer_has_its_head_wait() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let (inner_jobs, outer_jobs) = (table.durable(), table.durable());
    let layer = BackgroundLayer::with(supervisor.clone()).hand_off(unavailable);
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(inner_jobs.job("inner"));
        "welcome"
    });
    let between = axum::middleware::from_fn(move |request: axum::extract::Request, next: Next| {
        let outer_jobs = outer_jobs.clone();
        async move {
            let response = next.run(request).await;
            tower_background::defer(outer_jobs.job("outer")).expect("the layer is there");
            response
        }
    });
    let router = Router::new().route("/", handler).layer(layer).layer(between);
    let server = serve(&supervisor, router).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    let mut events = Vec::new();
    while table.has_more().await {
        events.push(table.next().await);
    }
    let both = [Event::Begun("inner"), Event::Written("inner"), Event::Begun("outer"), Event::Written("outer")];
    assert_eq!(events, both, "before the head");
    supervisor.idle().await;
}

/// Jobs of one request are written beside each other, or as the request's order says.
#[tokio::test]
async fn jobs_are_written_in_the_order_of_the_request() {
    for (order, begun) in [
        (tower_background::Order::Concurrent, vec![Event::Begun("one"), Event::Begun("two")]),
        (tower_background::Order::Sequential, vec![Event::Begun("one")]),
    ] {
        let (supervisor, table) = (Supervisor::builder().order(order).build(), Table::closed());
        let jobs = table.durable();
        let handler = get(async move |tasks: BackgroundTasks| {
            tasks.add(jobs.job("one"));
            tasks.add(jobs.job("two"));
            "welcome"
        });
        let server = serve(&supervisor, Router::new().route("/", handler)).await;
        let mut client = Raw::connect(server.address).await;
        client.get("/").await;
        for event in begun {
            assert_eq!(table.next().await, event);
        }
        settle().await;
        assert!(!table.has_more().await, "{order:?}");
        table.let_write(2);
        client.until("\r\n\r\n").await;
        supervisor.idle().await;
        assert_eq!(supervisor.stats().handed_off, 2);
    }
}

/// A registry without a response takes jobs, so that a handler can be tested by itself.
#[tokio::test]
async fn a_detached_registry_takes_jobs() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let tasks = BackgroundTasks::detached(&supervisor);
    assert!(tasks.add(table.durable().job("mail").named("welcome")));
    assert_eq!(tasks.names(), [Some("welcome".to_owned())]);
}
