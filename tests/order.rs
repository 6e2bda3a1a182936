//! The order of a request's tasks: concurrent, sequential, fail-fast; by supervisor and by request; with late tasks.

#![cfg(feature = "axum")]

mod support;

use std::{
    convert::Infallible,
    error::Error,
    sync::{Arc, Mutex},
};

use axum::{Router, routing::get};
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use tokio::sync::{Barrier, Notify, mpsc};
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, BatchReport, Observer, Order, Supervisor, Task, TaskContext,
};

use support::{Recorder, Script, Server, Step, soon};

fn named(name: &'static str, result: Result<(), &'static str>) -> Task {
    Task::new(async move { result }).named(name)
}

/// A handler's tasks, of which the second fails.
fn four(tasks: &BackgroundTasks) {
    tasks.add(named("one", Ok(())));
    tasks.add(named("two", Err("broken")));
    tasks.add(named("three", Ok(())));
    tasks.add(named("four", Ok(())));
}

async fn serve(order: Order, router: Router) -> (Server, Recorder) {
    let recorder = Recorder::default();
    let supervisor = Supervisor::builder().order(order).observer(recorder.clone()).build();
    (Server::router(&supervisor, router).await, recorder)
}

#[tokio::test]
async fn concurrent_tasks_run_beside_each_other() {
    // Both wait for each other: one after the other they would never end.
    let router = Router::new().route(
        "/",
        get(async |tasks: BackgroundTasks| {
            let both = Arc::new(Barrier::new(2));
            for name in ["one", "two"] {
                let both = Arc::clone(&both);
                tasks.add(
                    Task::new(async move {
                        both.wait().await;
                    })
                    .named(name),
                );
            }
        }),
    );
    let (server, recorder) = serve(Order::Concurrent, router).await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("batch"), ["batch / one=succeeded,two=succeeded"]);
}

#[tokio::test]
async fn a_sequence_goes_on_after_a_failure() {
    let (server, recorder) =
        serve(Order::Sequential, Router::new().route("/", get(async |tasks: BackgroundTasks| four(&tasks)))).await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(
        recorder.lines(),
        [
            "response GET / Complete",
            "started one",
            "ended one succeeded",
            "started two",
            "ended two failed: broken",
            "started three",
            "ended three succeeded",
            "started four",
            "ended four succeeded",
            "batch / one=succeeded,two=failed,three=succeeded,four=succeeded",
        ]
    );
}

#[tokio::test]
async fn fail_fast_skips_the_rest() {
    let (server, recorder) =
        serve(Order::FailFast, Router::new().route("/", get(async |tasks: BackgroundTasks| four(&tasks)))).await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("started"), ["started one", "started two"]);
    assert_eq!(recorder.told("batch"), ["batch / one=succeeded,two=failed,three=skipped,four=skipped"]);
    let stats = server.supervisor.stats();
    assert_eq!((stats.succeeded, stats.failed, stats.skipped), (1, 1, 2));
}

#[tokio::test]
async fn a_panic_and_a_timeout_are_failures_too() {
    let router = Router::new().route(
        "/{how}",
        get(async |axum::extract::Path(how): axum::extract::Path<String>, tasks: BackgroundTasks| {
            tasks.order(Order::FailFast);
            if how == "panic" {
                tasks.add(Task::new(async { assert_eq!(1, 2) }).named("bad"));
            } else {
                let timeout = std::time::Duration::from_millis(1);
                tasks.add(Task::new(std::future::pending::<()>()).timeout(timeout).named("bad"));
            }
            tasks.add(named("rest", Ok(())));
        }),
    );
    let (server, recorder) = serve(Order::Concurrent, router).await;
    server.get("/panic").await;
    server.get("/timeout").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("batch"), ["batch /panic bad=panicked,rest=skipped", "batch /timeout bad=timed_out,rest=skipped"]);
}

#[tokio::test]
async fn a_request_chooses_its_own_order_until_its_tasks_are_released() {
    let (server, recorder) = serve(
        Order::Sequential,
        Router::new().route(
            "/",
            get(async |tasks: BackgroundTasks| {
                assert!(tasks.order(Order::FailFast));
                tasks.add(named("bad", Err("broken")));
                tasks.add(named("rest", Ok(())));
                tasks.add(Task::with_context(async |cx: TaskContext| {
                    assert!(!cx.tasks().order(Order::Sequential), "the tasks are released");
                }));
            }),
        ),
    )
    .await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("batch"), ["batch / bad=failed,rest=skipped,-=skipped"]);
}

#[tokio::test]
async fn a_task_that_is_added_by_a_task_runs_last_in_a_sequence() {
    let router = Router::new().route(
        "/",
        get(async |tasks: BackgroundTasks| {
            tasks.add(
                Task::with_context(async |cx: TaskContext| {
                    cx.tasks().add(named("late", Ok(())));
                })
                .named("one"),
            );
            tasks.add(named("two", Ok(())));
        }),
    );
    let (server, recorder) = serve(Order::Sequential, router).await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("started"), ["started one", "started two", "started late"]);
    assert_eq!(recorder.told("batch"), ["batch / one=succeeded,two=succeeded,late=succeeded"], "it is of the same batch");
}

#[tokio::test]
async fn a_task_that_is_added_after_the_last_has_ended_is_a_batch_of_its_own() {
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let router = Router::new().route(
        "/",
        get(move |tasks: BackgroundTasks| async move {
            tasks.add(named("one", Ok(())));
            *keep.lock().unwrap() = Some(tasks);
        }),
    );
    let (server, recorder) = serve(Order::FailFast, router).await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    let tasks = kept.lock().unwrap().take().expect("the handler kept it");
    tasks.add(named("late", Ok(())));
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("batch"), ["batch / one=succeeded", "batch / late=succeeded"]);
}

#[tokio::test]
async fn a_report_is_an_error_that_lists_all_failures() {
    struct Check(Arc<Notify>);
    impl Observer for Check {
        fn batch_ended(&self, report: &BatchReport) {
            assert_eq!(report.to_string(), "2 of 4 tasks failed: two failed: broken; four panicked: worse");
            assert_eq!(report.source().expect("a source").to_string(), "broken");
            assert_eq!(report.failures().map(|task| task.name().unwrap()).collect::<Vec<_>>(), ["two", "four"]);
            assert!(report.tasks().iter().all(|task| task.ran().is_some() && task.end().is_some()));
            self.0.notify_one();
        }
    }
    let checked = Arc::new(Notify::new());
    let supervisor = Supervisor::builder().observer(Check(Arc::clone(&checked))).build();
    let router = Router::new().route(
        "/",
        get(async |tasks: BackgroundTasks| {
            tasks.add(named("one", Ok(())));
            tasks.add(named("two", Err("broken")));
            tasks.add(named("three", Ok(())));
            tasks.add(Task::new(async { assert!(false_at_run_time(), "worse") }).named("four"));
        }),
    );
    let server = Server::router(&supervisor, router).await;
    server.get("/").await;
    soon(checked.notified()).await;
}

fn false_at_run_time() -> bool {
    std::env::args().count() == 0
}

#[tokio::test]
async fn what_has_not_started_can_be_taken_back() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let router = Router::new().route(
        "/",
        get(move |tasks: BackgroundTasks| async move {
            tasks.add(named("collected", Ok(())));
            assert_eq!(tasks.remove("collected"), 1);
            assert_eq!(tasks.remove("collected"), 0);
            tasks.add(Task::new(async move { wait.notified().await }).named("first"));
            tasks.add(named("second", Ok(())));
            *keep.lock().unwrap() = Some(tasks);
        }),
    );
    let (server, recorder) = serve(Order::Sequential, router).await;
    server.get("/").await;
    let tasks = kept.lock().unwrap().take().expect("the handler kept it");
    while server.supervisor.stats().running == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tasks.remove("first"), 0, "it runs");
    assert_eq!(tasks.remove("second"), 1, "it waits for its turn");
    go.notify_one();
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.told("batch"), ["batch / collected=cancelled,first=succeeded,second=cancelled"]);
    assert_eq!(server.supervisor.stats().cancelled, 2);
}

/// Takes what it is told of a response's body, as a server does, drops that, and spawns something after it. Which runs first: the
/// response's task, or what was spawned?
async fn first_after(version: Version, body: Script, polls: usize) -> &'static str {
    let mut body = Some(body);
    let (told, mut first) = mpsc::unbounded_channel();
    let task = told.clone();
    let mut service = BackgroundLayer::new().layer(service_fn(move |request: Request<()>| {
        let task = task.clone();
        request.background_tasks().expect("the layer is there").add(async move { task.send("task").expect("the test is there") });
        let body = body.take().expect("there is one request");
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    let request = Request::builder().version(version).body(()).expect("a request");
    let mut response = service.call(request).await.expect("it answers");
    for _ in 0..polls {
        let _ = response.body_mut().frame().await;
    }
    drop(response);
    tokio::spawn(async move { told.send("spawned").expect("the test is there") });
    soon(first.recv()).await.expect("both are told")
}

#[tokio::test]
async fn tasks_let_the_server_wake_others_first_where_it_has_to() {
    let whole = || Script::new([Step::data("hello")]).sized(5).tells_end();
    let stream = || Script::new([Step::data("hello")]);
    assert_eq!(first_after(Version::HTTP_11, whole(), 1).await, "task", "hyper writes it before it turns to anything else");
    assert_eq!(first_after(Version::HTTP_11, whole(), 2).await, "task", "whoever asked for more has had it whole");
    assert_eq!(first_after(Version::HTTP_11, stream(), 2).await, "spawned", "who feeds the body may be woken first");
    assert_eq!(first_after(Version::HTTP_2, whole(), 1).await, "spawned", "the connection has a task of its own");
}
