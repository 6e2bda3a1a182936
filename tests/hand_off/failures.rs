//! What a client gets, and what the books say, where a job was not written.

use std::{
    future::Ready,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use axum::{Router, extract::Request, middleware::Next, response::Response, routing::get};
use http::StatusCode;
use tower::{Layer, Service, ServiceBuilder, load_shed::LoadShedLayer, service_fn, timeout::TimeoutLayer};
use tower_background::{BackgroundTasks, BackgroundTasksExt, BoxError, HandOff, HandOffLayer, Order, Supervisor, When};

use crate::{
    support::{Raw, Server, soon},
    table::{Event, Table, serve},
};

/// Serves a handler that adds this job beside a task for success and one for any response.
async fn serve_job<J: Clone + Send + Sync + 'static>(
    supervisor: &Supervisor,
    jobs: HandOff<J>,
    job: J,
    change: impl Fn(tower_background::Task) -> tower_background::Task + Clone + Send + Sync + 'static,
) -> Server {
    let handler = get(move |tasks: BackgroundTasks| {
        tasks.add(tower_background::Task::new(async {}).when(When::Success));
        tasks.add(async {});
        tasks.add(change(jobs.job(job.clone()).named("welcome")));
        async { "welcome" }
    });
    serve(supervisor, Router::new().route("/", handler)).await
}

#[tokio::test]
async fn a_failed_write_is_answered_by_the_users_function() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    table.fail();
    let server = serve_job(&supervisor, table.durable(), "mail", |task| task).await;

    let (code, text) = server.get("/").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "welcome: a job was not handed off: its destination failed (the table is full)");
    supervisor.idle().await;
    let stats = supervisor.stats();
    assert_eq!((stats.failed, stats.skipped, stats.succeeded), (1, 1, 1), "{stats:?}");
}

#[tokio::test]
async fn a_slow_write_is_answered_when_its_time_is_over() {
    let (supervisor, table) = (Supervisor::new(), Table::closed());
    let server = serve_job(&supervisor, table.durable(), "mail", |task| task.timeout(Duration::from_millis(5))).await;

    let (status, text) = server.get("/").await;
    assert_eq!((status, &*text), (StatusCode::SERVICE_UNAVAILABLE, "welcome: a job was not handed off: timed out ()"));
    supervisor.idle().await;
    assert_eq!(supervisor.stats().timed_out, 1);
}

#[tokio::test]
async fn a_write_that_panics_is_answered() {
    let supervisor = Supervisor::new();
    let panics = service_fn(|(): ()| async { panic!("no table") as Result<(), BoxError> });
    let server = serve_job(&supervisor, HandOff::durable(panics), (), |task| task).await;

    let (status, text) = server.get("/").await;
    assert_eq!((status, &*text), (StatusCode::SERVICE_UNAVAILABLE, "welcome: a job was not handed off: panicked: no table ()"));
    supervisor.idle().await;
    assert_eq!(supervisor.stats().panicked, 1);
}

/// Tower's own layers on a destination: their errors come to the function that answers.
#[tokio::test]
async fn the_layers_of_a_destination_are_towers() {
    let supervisor = Supervisor::builder().max_concurrent(1).build();
    let table = Table::closed();
    let limited = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .concurrency_limit(1)
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        .service(table.clone());
    let jobs: HandOff<&str> = HandOff::durable(limited);
    let server = serve_job(&supervisor, jobs, "mail", |task| task).await;

    let mut first = Raw::connect(server.address).await;
    first.get("/").await;
    assert_eq!(table.next().await, Event::Begun("mail"));
    let (status, text) = server.get("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("(service overloaded)"), "{text}");
    table.let_write(1);
    assert!(first.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    supervisor.idle().await;
}

#[tokio::test]
async fn without_the_layer_a_job_is_refused() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let (jobs, took) = (table.durable(), std::sync::Arc::new(std::sync::Mutex::new(None)));
    let taken = took.clone();
    let handler = get(async move |tasks: BackgroundTasks| {
        *taken.lock().unwrap() = Some(tasks.add(jobs.job("mail")));
        "welcome"
    });
    let server = Server::router(&supervisor, Router::new().route("/", handler)).await;

    assert_eq!(server.get("/").await.0, StatusCode::OK);
    assert_eq!(*took.lock().unwrap(), Some(false));
    assert_eq!((supervisor.stats().refused, supervisor.stats().added()), (1, 1));
    assert!(!table.has_more().await);
}

#[tokio::test]
async fn a_condition_of_the_end_is_refused_before_the_head() {
    for condition in [When::Complete, When::matches(|_| true)] {
        let (supervisor, table) = (Supervisor::new(), Table::new());
        let server = serve_job(&supervisor, table.held(), "mail", move |task| task.when(condition.clone())).await;
        let (status, text) = server.get("/").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("refused: only the end of the response can tell"), "{text}");
        supervisor.idle().await;
        assert_eq!(supervisor.stats().refused, 1);
        assert!(!table.has_more().await);
    }
}

#[tokio::test]
async fn a_closed_supervisor_has_no_success() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    supervisor.shutdown(Duration::from_secs(1)).await;
    let server = serve_job(&supervisor, table.durable(), "mail", |task| task).await;

    let (status, text) = server.get("/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("refused: the supervisor is closed"), "{text}");
    assert!(!table.has_more().await);
    assert_eq!(supervisor.stats().refused, 3);
}

#[tokio::test]
async fn a_job_for_success_is_not_written_before_another_head() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let jobs = table.durable();
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("for success").when(When::Success));
        tasks.add(jobs.job("for any"));
        StatusCode::NOT_FOUND
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    assert_eq!(server.get("/").await.0, StatusCode::NOT_FOUND);
    assert_eq!((table.next().await, table.next().await), (Event::Begun("for any"), Event::Written("for any")));
    supervisor.idle().await;
    assert!(!table.has_more().await);
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().skipped), (1, 1));
}

/// Under `FailFast` the second job is not begun when the first has failed.
#[tokio::test]
async fn a_failure_skips_the_rest_of_the_jobs() {
    let (supervisor, table) = (Supervisor::builder().order(Order::FailFast).build(), Table::new());
    table.fail();
    let jobs = table.durable();
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("one"));
        tasks.add(jobs.job("two"));
        "welcome"
    });
    let server = serve(&supervisor, Router::new().route("/", handler)).await;

    assert_eq!(server.get("/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(table.next().await, Event::Begun("one"));
    assert!(!table.has_more().await);
    supervisor.idle().await;
    assert_eq!((supervisor.stats().failed, supervisor.stats().skipped), (1, 1));
}

/// A client that leaves while its job is written: the write is dropped, and counted.
#[tokio::test]
async fn a_client_that_leaves_ends_the_write() {
    let (supervisor, table) = (Supervisor::new(), Table::closed());
    let server = serve_job(&supervisor, table.durable(), "mail", |task| task).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(table.next().await, Event::Begun("mail"));
    client.reset();
    soon(supervisor.idle()).await;
    let stats = supervisor.stats();
    assert_eq!((stats.cancelled, stats.skipped, stats.added()), (1, 2, 3), "{stats:?}");
}

/// A layer farther out that gives the service up answers by itself: its client saw no success, so nothing is written.
#[tokio::test]
async fn a_service_that_is_given_up_writes_nothing() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let (jobs, never) = (table.durable(), std::sync::Arc::new(tokio::sync::Notify::new()));
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("mail"));
        tasks.add(jobs.job("in any case").when(When::Always));
        never.notified().await;
    });
    let timeout = tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_millis(5));
    let layer = HandOffLayer::new(crate::table::unavailable);
    let router = Router::new().route("/", handler).layer(layer).layer(timeout);
    let server = Server::router(&supervisor, router).await;

    assert_eq!(server.get("/").await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!((table.next().await, table.next().await), (Event::Begun("in any case"), Event::Written("in any case")));
    supervisor.idle().await;
    assert!(!table.has_more().await);
    assert_eq!((supervisor.stats().cancelled, supervisor.stats().handed_off), (1, 1));
}

/// A layer farther out that asks again: the job of the second answer is written before the head as well.
#[tokio::test]
async fn a_second_try_has_its_head_wait() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    table.fail();
    let jobs = table.durable();
    let handler = get(async move |tasks: BackgroundTasks| {
        tasks.add(jobs.job("mail"));
        "welcome"
    });
    let twice = axum::middleware::from_fn(async |request: Request, next: Next| {
        let mut again = Request::default();
        *again.extensions_mut() = request.extensions().clone();
        let first = next.clone().run(request).await;
        assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
        next.run(again).await
    });
    let layer = HandOffLayer::new(crate::table::unavailable);
    let server = Server::router(&supervisor, Router::new().route("/", handler).layer(layer).layer(twice)).await;

    let (status, text) = server.get("/").await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "unnamed: a job was not handed off: its destination failed (the table is full)")
    );
    supervisor.idle().await;
    assert_eq!(supervisor.stats().failed, 2);
}

/// A service that panics before it has a future: where a layer farther out catches that, nothing is written either.
#[tokio::test]
async fn a_service_that_panics_in_its_call_writes_nothing() {
    let (supervisor, table) = (Supervisor::new(), Table::new());
    let (tasks, jobs) = (BackgroundTasks::detached(&supervisor), table.durable());
    let panics = service_fn(move |request: http::Request<()>| -> Ready<Result<Response, BoxError>> {
        request.background_tasks().expect("it is there").add(jobs.job("mail"));
        panic!("as it should")
    });
    let mut service = HandOffLayer::new(crate::table::unavailable).layer(panics);
    let mut request = http::Request::new(());
    request.extensions_mut().insert(tasks.clone());

    let called = catch_unwind(AssertUnwindSafe(|| drop(service.call(request))));
    assert!(called.is_err());
    assert_eq!((supervisor.stats().cancelled, supervisor.stats().added()), (1, 1));
    assert!(!table.has_more().await);
}
