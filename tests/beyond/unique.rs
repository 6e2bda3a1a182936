//! `Task::unique` allows only one task with a key to wait or run at a time.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, to_bytes},
    routing::get,
};
use http::Request;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_background::{
    BackgroundLayer, BackgroundTasks, Observer, Stats, Supervisor, Task, When,
    report::RequestReport,
};

use crate::common::{Call, Held, answered, output, settle, soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_refresh_a_cache_once() {
    let supervisor = Supervisor::new();
    let held = Held::new();
    let refresh = held.clone();
    let handler = async move |tasks: BackgroundTasks| {
        tasks.add(refresh.task("refresh").unique("refresh"));
        "stale"
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let mut requests = JoinSet::new();
    for _ in 0..1_000 {
        let app = app.clone();
        requests.spawn(async move {
            let request = Request::get("/")
                .body(Body::empty())
                .expect("the path is valid");
            let response = app.oneshot(request).await.expect("a router does not fail");
            to_bytes(response.into_body(), 1024)
                .await
                .expect("the body ends well")
        });
    }
    while let Some(answer) = soon(requests.join_next()).await {
        assert_eq!(answer.expect("no request panics"), "stale");
    }
    until(async || supervisor.stats().duplicates == 999).await;
    assert_eq!(held.started().await, "refresh");
    held.let_go(1);
    soon(supervisor.idle()).await;
    let stats = supervisor.stats();
    assert_eq!(
        (
            stats.succeeded,
            stats.skipped,
            stats.duplicates,
            stats.added()
        ),
        (1, 999, 999, 1_000)
    );
    assert!(!held.has_started().await);
}

#[tokio::test]
async fn a_task_whose_response_is_open_suppresses_no_other() {
    let (supervisor, held) = (Supervisor::new(), Held::new());
    let open = Call::new(&supervisor, "/open");
    open.tasks.add(held.task("open").unique("key"));
    let tasks = answered(&supervisor, "/").await;
    tasks.add(held.task("other").unique("key"));
    assert_eq!(held.started().await, "other");
    held.let_go(1);
    until(async || supervisor.stats().succeeded == 1).await;
    // The key is free again.
    open.finish().await;
    assert_eq!(held.started().await, "open");
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().duplicates),
        (2, 0)
    );
}

#[tokio::test]
async fn the_condition_is_judged_before_the_key() {
    let (supervisor, held) = (Supervisor::new(), Held::new());
    let never = || {
        Task::new(async {})
            .unique("key")
            .when(When::matches(|_| false))
    };
    let tasks = answered(&supervisor, "/").await;
    tasks.add(never());
    tasks.add(held.task("runs").unique("key"));
    tasks.add(never());
    tasks.add(Task::new(async {}).unique("key"));
    assert_eq!(held.started().await, "runs");
    held.let_go(1);
    soon(supervisor.idle()).await;
    let stats = supervisor.stats();
    assert_eq!(
        (stats.succeeded, stats.skipped, stats.duplicates),
        (1, 3, 1)
    );
}

#[tokio::test]
async fn the_key_is_free_after_each_end() {
    let supervisor = Supervisor::builder().max_concurrent(1).build();
    let tasks = answered(&supervisor, "/").await;
    let ends = [
        Task::new(async {}),
        Task::new(async { Err::<(), _>("as it should") }),
        Task::new(async { assert_eq!(1, 2, "as it should") }),
        Task::blocking(|| {}),
        Task::new(std::future::pending::<()>()).timeout(std::time::Duration::from_millis(1)),
    ];
    for task in ends {
        let handle = tasks
            .try_add(task.unique("key"))
            .expect("the supervisor is open");
        soon(handle).await;
        soon(supervisor.idle()).await;
    }
    let aborted = tasks
        .try_add(Task::new(std::future::pending::<()>()).unique("key"))
        .expect("the supervisor is open");
    aborted.abort();
    soon(aborted).await;
    soon(supervisor.idle()).await;
    // A task that waits for a permit has the key until it is removed.
    let held = Held::new();
    tasks.add(held.task("holds the permit"));
    assert_eq!(held.started().await, "holds the permit");
    tasks.add(Task::new(async {}).named("waits").unique("key"));
    tasks.add(Task::new(async {}).unique("key"));
    settle().await;
    assert_eq!(supervisor.stats().duplicates, 1);
    assert_eq!(tasks.remove("waits"), 1);
    tasks.add(Task::new(async {}).unique("key"));
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().duplicates),
        (4, 1)
    );
}

#[tokio::test]
async fn a_spawned_task_has_a_key_too() {
    let (supervisor, held) = (Supervisor::new(), Held::new());
    let first = supervisor
        .spawn(held.task("first").unique("key"))
        .expect("the supervisor is open");
    let second = supervisor
        .spawn(held.task("second").unique("key"))
        .expect("the supervisor is open");
    assert_eq!(soon(second).await.label(), "skipped");
    held.let_go(1);
    assert_eq!(soon(first).await.label(), "succeeded");
    assert_eq!(supervisor.stats().duplicates, 1);
}

#[tokio::test]
async fn the_example_refreshes_once() {
    assert_eq!(
        output("unique", "axum").await,
        "refreshes: 1, duplicates: 99\n"
    );
}

/// The statistics of the last request whose tasks have ended.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<Option<Stats>>>);

impl Observer for Last {
    fn on_request_done(&self, report: &RequestReport) {
        *self.0.lock().unwrap() = Some(*report.stats());
    }
}

#[tokio::test]
async fn the_report_of_a_request_counts_duplicates() {
    let last = Last::default();
    let supervisor = Supervisor::builder().observer(last.clone()).build();
    let (open, closed) = tokio::sync::oneshot::channel::<()>();
    let first = supervisor.spawn(Task::new(async { drop(closed.await) }).unique("key"));
    let first = first.expect("it is not refused");
    let call = Call::new(&supervisor, "/");
    call.tasks.add(Task::new(async {}).unique("key"));
    tokio::task::yield_now().await;
    call.finish().await;
    until(async || supervisor.stats().duplicates == 1).await;
    let stats = last.0.lock().unwrap().expect("the request is done");
    assert_eq!((stats.skipped, stats.duplicates), (1, 1));
    drop(open);
    soon(first).await;
}
