//! The order of the tasks of a request: concurrent, sequential or fail-fast, set by the supervisor
//! or by the request, and with late tasks.

use std::{
    convert::Infallible,
    error::Error,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::Path, routing::get};
use http::{Method, Request, Response, Version};
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::sync::{Barrier, Notify, mpsc};
use tokio_util::io::InspectWriter;
use tower::{Layer, Service, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Observer, Order, Supervisor, Task, defer,
    report::RequestReport,
};

use crate::common::{Multiplexed, Recorder, Script, Server, Step, Witness, rest, soon, until};

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
    let supervisor = Supervisor::builder()
        .order(order)
        .observer(recorder.clone())
        .build();
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
    assert_eq!(recorder.lines_of("done"), ["done / succeeded=2"]);
}

#[tokio::test]
async fn a_sequence_goes_on_after_a_failure() {
    let (server, recorder) = serve(
        Order::Sequential,
        Router::new().route("/", get(async |tasks: BackgroundTasks| four(&tasks))),
    )
    .await;
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
            "done / succeeded=3,failed=1",
        ]
    );
}

#[tokio::test]
async fn fail_fast_skips_the_rest() {
    let (server, recorder) = serve(
        Order::FailFast,
        Router::new().route("/", get(async |tasks: BackgroundTasks| four(&tasks))),
    )
    .await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.lines_of("started"), ["started one", "started two"]);
    assert_eq!(
        recorder.lines_of("done"),
        ["done / succeeded=1,failed=1,skipped=2"]
    );
    let stats = server.supervisor.stats();
    assert_eq!((stats.succeeded, stats.failed, stats.skipped), (1, 1, 2));
}

#[tokio::test]
async fn a_panic_and_a_timeout_are_failures_too() {
    let router = Router::new().route(
        "/{how}",
        get(async |Path(how): Path<String>, tasks: BackgroundTasks| {
            tasks.set_order(Order::FailFast);
            if how == "panic" {
                tasks.add(Task::new(async { assert_eq!(1, 2) }).named("bad"));
            } else {
                let timeout = std::time::Duration::from_millis(1);
                tasks.add(
                    Task::new(std::future::pending::<()>())
                        .timeout(timeout)
                        .named("bad"),
                );
            }
            tasks.add(named("rest", Ok(())));
        }),
    );
    let (server, recorder) = serve(Order::Concurrent, router).await;
    server.get("/panic").await;
    server.get("/timeout").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("done"),
        [
            "done /panic panicked=1,skipped=1",
            "done /timeout timed_out=1,skipped=1"
        ]
    );
}

/// Serves a handler that keeps its registry, and returns both.
async fn keep(
    order: Order,
    leave: impl Fn(&BackgroundTasks) + Clone + Send + Sync + 'static,
) -> (Server, Recorder, BackgroundTasks) {
    let (kept, mut keeps) = mpsc::unbounded_channel();
    let router = Router::new().route(
        "/",
        get(async move |tasks: BackgroundTasks| {
            leave(&tasks);
            kept.send(tasks).expect("the test waits");
        }),
    );
    let (server, recorder) = serve(order, router).await;
    server.get("/").await;
    let tasks = soon(keeps.recv()).await.expect("the handler has run");
    (server, recorder, tasks)
}

#[tokio::test]
async fn a_request_chooses_its_own_order_until_its_tasks_start() {
    let (server, recorder, tasks) = keep(Order::Sequential, |tasks| {
        assert!(tasks.set_order(Order::FailFast));
        tasks.add(named("bad", Err("broken")));
        tasks.add(named("rest", Ok(())));
    })
    .await;
    soon(server.supervisor.idle()).await;
    assert!(
        !tasks.set_order(Order::Sequential),
        "the tasks have started"
    );
    assert_eq!(recorder.lines_of("done"), ["done / failed=1,skipped=1"]);
}

#[tokio::test]
async fn a_task_that_is_added_by_a_task_runs_last_in_a_sequence() {
    let router = Router::new().route(
        "/",
        get(async |tasks: BackgroundTasks| {
            tasks.add(Task::new(async { defer(named("late", Ok(()))) }).named("one"));
            tasks.add(named("two", Ok(())));
        }),
    );
    let (server, recorder) = serve(Order::Sequential, router).await;
    server.get("/").await;
    soon(server.supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("started"),
        ["started one", "started two", "started late"]
    );
    assert_eq!(
        recorder.lines_of("done"),
        ["done / succeeded=3"],
        "it is one report"
    );
}

#[tokio::test]
async fn a_task_that_is_added_after_the_last_has_ended_has_a_report_of_its_own() {
    let (server, recorder, tasks) =
        keep(Order::FailFast, |tasks| tasks.add(named("one", Ok(())))).await;
    soon(server.supervisor.idle()).await;
    tasks.add(named("late", Ok(())));
    soon(server.supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("ended"),
        ["ended one succeeded", "ended late succeeded"]
    );
    assert_eq!(recorder.lines_of("done"), ["done / succeeded=1"; 2]);
}

#[tokio::test]
async fn a_task_that_is_added_after_a_failure_is_skipped_by_fail_fast_alone() {
    for (order, late) in [
        (Order::FailFast, "skipped"),
        (Order::Sequential, "succeeded"),
        (Order::Concurrent, "succeeded"),
    ] {
        let (server, recorder, tasks) =
            keep(order, |tasks| tasks.add(named("bad", Err("broken")))).await;
        soon(server.supervisor.idle()).await;
        for _ in 0..2 {
            tasks.add(named("late", Ok(())));
            soon(server.supervisor.idle()).await;
        }
        let late = format!("ended late {late}");
        assert_eq!(
            recorder.lines_of("ended"),
            ["ended bad failed: broken", &late, &late],
            "{order:?}"
        );
    }
}

#[tokio::test]
async fn a_report_is_an_error_that_lists_all_failures() {
    struct Check(Arc<Notify>);
    impl Observer for Check {
        fn on_request_done(&self, report: &RequestReport) {
            assert_eq!(
                report.to_string(),
                "2 of 4 tasks failed after GET /: two failed: broken; four panicked: worse"
            );
            assert_eq!(report.source().expect("a source").to_string(), "broken");
            assert_eq!(
                report
                    .failures()
                    .iter()
                    .map(|task| task.name().unwrap())
                    .collect::<Vec<_>>(),
                ["two", "four"]
            );
            assert!(
                report
                    .failures()
                    .iter()
                    .all(|task| task.ran().is_some() && task.end().is_some())
            );
            assert_eq!(report.more_failures(), 0);
            self.0.notify_one();
        }
    }
    let checked = Arc::new(Notify::new());
    let supervisor = Supervisor::builder()
        .observer(Check(Arc::clone(&checked)))
        .build();
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
    let (server, recorder, tasks) = keep(Order::Sequential, move |tasks| {
        tasks.add(named("deferred", Ok(())));
        assert_eq!((tasks.remove("deferred"), tasks.remove("deferred")), (1, 0));
        let wait = Arc::clone(&wait);
        tasks.add(Task::new(async move { wait.notified().await }).named("first"));
        tasks.add(named("second", Ok(())));
    })
    .await;
    until(async || server.supervisor.stats().running == 1).await;
    assert_eq!(tasks.names(), [Some("second".to_owned())]);
    assert_eq!(tasks.remove("first"), 0, "it runs");
    assert_eq!(tasks.remove("second"), 1, "it waits for its turn");
    go.notify_one();
    soon(server.supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("ended"),
        [
            "ended deferred removed",
            "ended second removed",
            "ended first succeeded"
        ]
    );
    assert_eq!(recorder.lines_of("done"), ["done / succeeded=1,removed=2"]);
}

/// Takes a frame of a response, wakes something else, and drops the body, as a server does. Returns
/// what runs first: the task of the response, or what was woken.
async fn first_after(version: Version, body: Script) -> &'static str {
    let mut body = Some(body);
    let (sender, mut first) = mpsc::unbounded_channel();
    let task = sender.clone();
    let mut service = BackgroundLayer::new().layer(service_fn(move |request: Request<()>| {
        let task = task.clone();
        request
            .background_tasks()
            .expect("the layer is there")
            .add(async move { task.send("task").expect("the test is there") });
        let body = body.take().expect("there is one request");
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    let request = Request::builder()
        .version(version)
        .body(())
        .expect("a request");
    let server = tokio::spawn(async move {
        let mut response = service.call(request).await.expect("it answers");
        let _ = response.body_mut().frame().await;
        tokio::spawn(async move { sender.send("woken").expect("the test is there") });
        drop(response);
    });
    soon(server).await.expect("it does not panic");
    soon(first.recv()).await.expect("both send")
}

/// A worker polls first what was woken last. Over HTTP/2 the stream has woken the task that writes
/// the end. Over HTTP/1 the task that drops the body writes, so it writes first anyway.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn on_a_worker_tasks_yield_once_after_the_body_is_dropped_over_http2() {
    for (version, first) in [(Version::HTTP_11, "task"), (Version::HTTP_2, "woken")] {
        let whole = Script::new([Step::data("hello")]).sized(5).tells_end();
        let stream = Script::new([Step::data("hello")]);
        for body in [whole, stream] {
            assert_eq!(first_after(version, body).await, first, "{version:?}");
        }
    }
}

/// On a current-thread runtime, the task that writes the end is woken before the tasks are spawned.
#[tokio::test]
async fn on_one_thread_every_task_starts_after_the_write_over_http2() {
    const STREAMS: usize = 16;
    let written = Arc::<Mutex<Vec<u8>>>::default();
    let log = Arc::clone(&written);
    let router = Router::new().route(
        "/{marker}",
        get(
            async move |Path(marker): Path<String>, tasks: BackgroundTasks| {
                let body = marker.clone();
                tasks.add(Task::fallible(async move {
                    let written = log.lock().expect("no thread panics").clone();
                    let text = String::from_utf8_lossy(&written);
                    assert!(text.contains(&marker), "{marker} is not written");
                    Ok(())
                }));
                body
            },
        ),
    );
    let supervisor = Supervisor::new();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(router);
    let server = Server::each(supervisor, Witness::new(), move |stream| {
        let written = Arc::clone(&written);
        let stream = InspectWriter::new(stream, move |bytes: &[u8]| {
            written.lock().expect("no thread panics").extend(bytes);
        });
        let service = TowerToHyperService::new(service.clone());
        async move {
            // The client of the test closes the connection.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let mut client = Multiplexed::connect(&server).await;
    for round in 0..20 {
        let mut responses = Vec::new();
        for stream in 0..STREAMS {
            let path = format!("/marker-{round}-{stream}.");
            responses.push(client.send(Method::GET, &path).await.0);
        }
        for response in responses {
            let mut response = soon(response).await.expect("it answers");
            rest(response.body_mut()).await.expect("it is whole");
        }
    }
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!(stats.succeeded, 20 * STREAMS as u64, "{stats:?}");
}
