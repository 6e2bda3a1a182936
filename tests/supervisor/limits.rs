//! Limits: how many tasks run at once, in which order they get their permits, and backpressure by
//! `max_pending`.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, response::IntoResponse, routing::get};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Observer, Order, Supervisor,
    SupervisorBuilder, Task, When, report::TaskReport,
};

use crate::common::{Held, Server, Witness, soon, until};

/// `/{name}/{n}` leaves n held tasks, named after the request and their place.
fn router(held: &Held) -> Router {
    let (held, blocking) = (held.clone(), held.clone());
    Router::new()
        .route(
            "/{name}/{n}",
            get(
                async move |Path((name, n)): Path<(String, usize)>, tasks: BackgroundTasks| {
                    for i in 1..=n {
                        tasks.add(held.task(format!("{name}{i}")));
                    }
                },
            ),
        )
        .route(
            "/blocking/{name}/{n}",
            get(
                async move |Path((name, n)): Path<(String, usize)>, tasks: BackgroundTasks| {
                    for i in 1..=n {
                        tasks.add(blocking.blocking(format!("{name}{i}")));
                    }
                },
            ),
        )
}

async fn serve(builder: SupervisorBuilder) -> (Server, Held) {
    let held = Held::new();
    (Server::router(&builder.build(), router(&held)).await, held)
}

/// Waits until this many tasks wait for a permit or for their turn.
async fn waiting(server: &Server, tasks: u64) {
    soon(async {
        while server.supervisor.stats().queued != tasks {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn permits_are_given_first_come_first_served_across_requests() {
    let (server, held) = serve(Supervisor::builder().max_concurrent(1)).await;
    server.get("/a/3").await;
    waiting(&server, 2).await;
    server.get("/b/1").await;
    waiting(&server, 3).await;
    server.get("/c/1").await;
    waiting(&server, 4).await;
    for expected in ["a1", "a2", "a3", "b1", "c1"] {
        assert_eq!(held.started().await, expected);
        assert!(!held.has_started().await, "one permit, one task");
        assert_eq!(server.supervisor.stats().running, 1);
        held.let_go(1);
    }
    soon(server.supervisor.idle()).await;
    assert_eq!(server.supervisor.stats().succeeded, 5);
}

#[tokio::test]
async fn all_permits_are_used() {
    let (server, held) = serve(Supervisor::builder().max_concurrent(3)).await;
    server.get("/a/5").await;
    for expected in ["a1", "a2", "a3"] {
        assert!(
            ["a1", "a2", "a3"].contains(&held.started().await.as_str()),
            "{expected} of the first three"
        );
    }
    waiting(&server, 2).await;
    assert_eq!(
        (held.has_started().await, server.supervisor.stats().running),
        (false, 3)
    );
    held.let_go(5);
    soon(server.supervisor.idle()).await;
}

#[tokio::test]
async fn a_sequence_holds_one_permit_and_none_while_it_waits() {
    let (server, held) = serve(
        Supervisor::builder()
            .max_concurrent(2)
            .order(Order::Sequential),
    )
    .await;
    server.get("/a/3").await;
    assert_eq!(held.started().await, "a1");
    server.get("/b/3").await;
    assert_eq!(held.started().await, "b1", "the second permit is free");
    server.get("/c/1").await;
    waiting(&server, 5).await;
    held.let_go(1);
    assert_eq!(
        held.started().await,
        "c1",
        "between two tasks of a sequence the permit goes to the next in the queue"
    );
    held.let_go(6);
    soon(server.supervisor.idle()).await;
    assert_eq!(server.supervisor.stats().succeeded, 7);
}

#[tokio::test]
async fn blocking_tasks_have_separate_permits() {
    let (server, held) = serve(Supervisor::builder().max_concurrent(1).max_blocking(1)).await;
    server.get("/a/2").await;
    assert_eq!(held.started().await, "a1");
    server.get("/blocking/b/2").await;
    assert_eq!(held.started().await, "b1", "it does not wait for a1");
    waiting(&server, 2).await;
    assert!(!held.has_started().await);
    held.let_go(4);
    soon(server.supervisor.idle()).await;
    assert_eq!(server.supervisor.stats().succeeded, 4);
}

#[tokio::test]
async fn a_blocking_function_keeps_its_permit_until_it_returns() {
    let held = Held::new();
    let timed = held.clone();
    let router = router(&held).route(
        "/timed",
        get(async move |tasks: BackgroundTasks| {
            // Enough to begin in: a function that has not begun by then never does.
            tasks.add(timed.blocking("timed").timeout(Duration::from_millis(250)));
        }),
    );
    let server = Server::router(&Supervisor::builder().max_blocking(1).build(), router).await;
    server.get("/timed").await;
    assert_eq!(held.started().await, "timed");
    soon(server.supervisor.idle()).await;
    assert_eq!(
        server.supervisor.stats().timed_out,
        1,
        "it is reported at its timeout"
    );
    server.get("/blocking/next/1").await;
    waiting(&server, 1).await;
    assert!(
        !held.has_started().await,
        "the first function still has its thread"
    );
    held.let_go(1);
    assert_eq!(held.started().await, "next1");
    held.let_go(1);
    soon(server.supervisor.idle()).await;
}

#[tokio::test]
async fn a_task_that_waits_for_a_permit_can_be_taken_back() {
    let held = Held::new();
    let kept = Arc::new(Mutex::new(None));
    let (keep, tasks_of) = (Arc::clone(&kept), held.clone());
    let router = Router::new().route(
        "/",
        get(async move |tasks: BackgroundTasks| {
            for name in ["one", "two", "three"] {
                tasks.add(tasks_of.task(name));
            }
            *keep.lock().unwrap() = Some(tasks);
        }),
    );
    let recorder = crate::common::Recorder::default();
    let supervisor = Supervisor::builder()
        .max_concurrent(1)
        .observer(recorder.clone())
        .build();
    let server = Server::router(&supervisor, router).await;
    server.get("/").await;
    assert_eq!(held.started().await, "one");
    waiting(&server, 2).await;
    let tasks = kept.lock().unwrap().take().expect("the handler kept it");
    assert_eq!(
        (
            tasks.remove("one"),
            tasks.remove("two"),
            tasks.remove("two")
        ),
        (0, 1, 0)
    );
    until(async || supervisor.stats().removed == 1).await;
    held.let_go(1);
    assert_eq!(held.started().await, "three");
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(recorder.lines_of("done"), ["done / succeeded=2,removed=1"]);
    assert_eq!(supervisor.stats().added(), 3);
}

#[tokio::test(start_paused = true)]
async fn waiting_and_running_are_told_apart() {
    struct Times(Arc<Mutex<Vec<(u64, u64)>>>);
    impl Observer for Times {
        fn on_task_end(&self, report: &TaskReport) {
            self.0.lock().unwrap().push((
                report.waited().as_secs(),
                report.ran().expect("it ran").as_secs(),
            ));
        }
    }
    let times = Arc::default();
    let supervisor = Supervisor::builder()
        .max_concurrent(1)
        .observer(Times(Arc::clone(&times)))
        .build();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |request: Request<()>| {
            let tasks = request.background_tasks().expect("the layer is there");
            for seconds in [10, 20] {
                // The timeout counts from the start of the task. If it included the wait, the
                // second task would time out.
                tasks.add(
                    Task::new(
                        async move { tokio::time::sleep(Duration::from_secs(seconds)).await },
                    )
                    .timeout(Duration::from_secs(25)),
                );
            }
            Ok::<_, Infallible>(Response::new(String::new()))
        },
    ));
    drop(service.oneshot(Request::new(())).await);
    supervisor.idle().await;
    assert_eq!(*times.lock().unwrap(), [(0, 10), (10, 20)]);
    assert_eq!(supervisor.stats().succeeded, 2);
}

/// An application that sheds load when the supervisor has as many tasks as it may.
async fn shedding(supervisor: &Supervisor, router: Router) -> Server {
    let app = ServiceBuilder::new()
        .layer(axum::error_handling::HandleErrorLayer::new(
            async |_: tower::BoxError| StatusCode::SERVICE_UNAVAILABLE,
        ))
        .load_shed()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .service(router);
    Server::serve(app, supervisor.clone(), Witness::new()).await
}

#[tokio::test]
async fn with_load_shedding_outside_a_full_supervisor_answers_503() {
    let held = Held::new();
    let supervisor = Supervisor::builder().max_pending(2).build();
    let server = shedding(&supervisor, router(&held)).await;
    assert_eq!(server.get("/a/2").await.0, StatusCode::OK);
    assert_eq!(server.get("/b/1").await.0, StatusCode::SERVICE_UNAVAILABLE);
    held.let_go(1);
    soon(async {
        while supervisor.stats().pending() == 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        server.get("/c/1").await.0,
        StatusCode::OK,
        "there may be another task"
    );
    held.let_go(2);
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 3);
}

#[tokio::test]
async fn without_it_a_request_waits_and_is_woken() {
    let held = Held::new();
    let supervisor = Supervisor::builder().max_pending(1).build();
    let server = Arc::new(Server::router(&supervisor, router(&held)).await);
    server.get("/a/1").await;
    assert_eq!(held.started().await, "a1");
    let waits: Vec<_> = ["/b/0", "/c/0", "/d/0"]
        .map(|path| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.get(path).await.0 })
        })
        .into();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(
        waits.iter().all(|wait| !wait.is_finished()),
        "there are as many tasks as there may be"
    );
    held.let_go(1);
    for wait in waits {
        assert_eq!(soon(wait).await.expect("it does not panic"), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_waiting_service_is_woken_and_a_dropped_one_takes_no_wake_up_along() {
    let supervisor = Supervisor::builder().max_pending(1).build();
    let held = Held::new();
    let make = held.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<()>| {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(make.task("held"));
            std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
        },
    ));
    drop(service.clone().oneshot(Request::new(())).await);
    let (mut one, mut two) = (service.clone(), service.clone());
    let mut first = tokio_test::task::spawn(one.ready());
    let mut second = tokio_test::task::spawn(two.ready());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert!(first.is_woken() && second.is_woken());
    drop(first);
    assert!(second.poll().is_ready());
}

#[tokio::test]
async fn a_request_with_the_last_task_ends_although_its_own_code_calls_the_service_again() {
    let held = Held::new();
    let supervisor = Supervisor::builder().max_pending(1).build();
    // Nested routers can have another layer of the same supervisor inside. The last task is added
    // between the two layers.
    let inner = router(&held).layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let take = held.clone();
    let app = Router::new()
        .fallback_service(inner)
        .layer(axum::middleware::from_fn(
            move |tasks: BackgroundTasks,
                  request: axum::extract::Request,
                  next: axum::middleware::Next| {
                tasks.add(take.task("last"));
                next.run(request)
            },
        ));
    let server = Server::router(&supervisor, app).await;
    assert_eq!(server.get("/a/1").await.0, StatusCode::OK);
    held.let_go(2);
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 2);
}

#[tokio::test]
async fn the_last_task_may_call_a_service_of_its_supervisor() {
    let supervisor = Supervisor::builder().max_pending(1).build();
    let echo = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::from("echo"))),
    ));
    let caller = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<()>| {
            let mut echo = echo.clone();
            request
                .background_tasks()
                .expect("the layer is there")
                .add(async move {
                    let called = echo
                        .ready()
                        .await
                        .expect("it can't fail")
                        .call(Request::new(()))
                        .await;
                    assert_eq!(called.expect("it can't fail").status(), StatusCode::OK);
                });
            std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
        },
    ));
    drop(caller.oneshot(Request::new(())).await);
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 1);
}

#[tokio::test]
async fn with_start_within_a_slow_reader_does_not_keep_tasks_pending() {
    let held = Held::new();
    let task = held.clone();
    let slow = Router::new().route(
        "/slow",
        get(async move |tasks: BackgroundTasks| {
            tasks.add(task.task("slow").when(When::Always));
            // The body is much larger than the socket buffers, so the response stays open while the
            // client does not read.
            Body::from(vec![b'x'; 64 << 20]).into_response()
        }),
    );
    let supervisor = Supervisor::builder()
        .max_pending(1)
        .start_within(Duration::from_millis(50))
        .build();
    let server = Server::router(&supervisor, router(&held).merge(slow)).await;
    let mut reader = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    reader
        .write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("it reads");
    let mut first = [0; 1];
    soon(reader.read_exact(&mut first))
        .await
        .expect("the head comes");

    assert_eq!(
        held.started().await,
        "slow",
        "it starts although nobody reads"
    );
    held.let_go(1);
    assert_eq!(
        server.get("/a/0").await.0,
        StatusCode::OK,
        "and another task may come"
    );
    let stats = supervisor.stats();
    assert_eq!((stats.succeeded, stats.pending()), (1, 0));
    drop(reader);
}

#[tokio::test(start_paused = true)]
async fn no_service_waits_once_the_supervisor_is_shut_down() {
    let supervisor = Supervisor::builder().max_pending(1).build();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |request: Request<()>| {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(async {});
            Ok::<_, Infallible>(Response::new(String::new()))
        },
    ));
    let open = service
        .clone()
        .oneshot(Request::new(()))
        .await
        .expect("it can't fail");
    let mut waiting = service.clone();
    let mut ready = tokio_test::task::spawn(waiting.ready());
    assert!(
        ready.poll().is_pending(),
        "the open response's task is the only one that may be"
    );
    let report = supervisor.shutdown(Duration::ZERO).await;
    assert_eq!(report.abandoned().len(), 1);
    assert!(ready.is_woken() && ready.poll().is_ready());
    drop(
        service
            .oneshot(Request::new(()))
            .await
            .expect("it can't fail"),
    );
    assert_eq!(supervisor.stats().refused, 1);
    drop(open);
    soon(supervisor.idle()).await;
}
