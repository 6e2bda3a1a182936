//! Wrong input and use lead to clear errors or outcomes: a missing layer, values out of range,
//! wrong bodies, and drops without a runtime.

use std::{
    collections::VecDeque,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::mpsc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use axum::{Router, response::IntoResponse, routing::get};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, BoxError, EndKind, ResponseEnd, Stats,
    Supervisor, SupervisorBuilder, Task, When, middleware::ResponseBody, report::ResponseError,
};
use tracing::Level;

use crate::common::{Entry, Events, PATIENCE, Server, Witness, open, soon};

// A missing layer.

async fn without_the_layer(router: Router, path: &str) -> (StatusCode, String) {
    let server = Server::serve(router, Supervisor::new(), Witness::new()).await;
    let response = open(&server, path).await;
    (
        response.status(),
        soon(response.text()).await.expect("a whole body"),
    )
}

#[tokio::test]
async fn extractor_without_the_layer() {
    let (events, _guard) = Events::record();
    let router = Router::new().route("/", get(async |_: BackgroundTasks| "never"));
    let (status, body) = without_the_layer(router, "/").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        body, "the server is misconfigured",
        "a client can do nothing about it"
    );

    let [(level, text)] = &events.ours()[..] else {
        panic!("one event: {events:?}")
    };
    assert_eq!(*level, Level::ERROR);
    assert!(
        text.contains("with_supervisor(supervisor.clone())"),
        "{text}"
    );
    assert!(
        text.contains(r#"method="GET" path="/" "#),
        "the route is named: {text}"
    );
}

#[tokio::test]
async fn task_in_a_response_without_the_layer() {
    let (events, _guard) = Events::record();
    let router = Router::new().route("/", get(async || (Task::new(async {}), "never")));
    let (status, body) = without_the_layer(router, "/").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        body, "the server is misconfigured",
        "a client can do nothing about it"
    );
    assert_eq!(events.ours().len(), 1, "{events:?}");
}

/// Who asks whether there is a layer gets an answer, not an error.
#[tokio::test]
async fn optional_extractor() {
    let (events, _guard) = Events::record();
    let router = || {
        Router::new().route(
            "/",
            get(async |tasks: Option<BackgroundTasks>| tasks.is_some().to_string()),
        )
    };
    assert_eq!(
        without_the_layer(router(), "/").await,
        (StatusCode::OK, "false".to_owned())
    );
    assert_eq!(
        without_the_layer(router().layer(BackgroundLayer::new()), "/").await,
        (StatusCode::OK, "true".to_owned())
    );
    assert_eq!(events.ours(), []);
}

#[test]
fn missing_layer_is_an_error() {
    let missing = Request::new(())
        .background_tasks()
        .expect_err("there is no layer");
    assert_eq!(
        (missing.method(), missing.path()),
        (Some(&Method::GET), Some("/"))
    );
    assert_eq!(format!("{missing:?}"), missing.to_string());
    let error: Box<dyn Error + Send + Sync> = Box::new(missing.clone());
    assert!(error.to_string().contains("`BackgroundLayer`"), "{error}");
    assert!(
        tower_background::defer(async {})
            .is_err_and(|error| format!("{error:?}").contains("clone of `BackgroundTasks`"))
    );
    assert_eq!(
        missing.into_response().status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[cfg(feature = "tonic")]
#[test]
fn missing_layer_is_a_status() {
    let (events, _guard) = Events::record();
    let missing = tonic::Request::new(())
        .background_tasks()
        .expect_err("there is no layer");
    let status = tonic::Status::from(missing);
    assert_eq!(status.code(), tonic::Code::Internal);
    assert_eq!(status.message(), "the server is misconfigured");
    let [(level, _)] = &events.ours()[..] else {
        panic!("one event: {events:?}")
    };
    assert_eq!(*level, Level::ERROR);
}

// Values out of range.

fn panic_of<R>(f: impl FnOnce() -> R) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f))
        .map(drop)
        .expect_err("it panics");
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref().cloned())
        .expect("a message")
}

#[test]
fn limits_of_zero_or_beyond_measure() {
    for (name, with) in [
        (
            "max_concurrent",
            SupervisorBuilder::max_concurrent as fn(_, _) -> _,
        ),
        ("max_blocking", SupervisorBuilder::max_blocking),
        ("max_pending", SupervisorBuilder::max_pending),
    ] {
        assert!(
            panic_of(|| with(Supervisor::builder(), 0).build()).contains(&format!("`{name}` is 0")),
            "{name}"
        );
        assert!(
            panic_of(|| with(Supervisor::builder(), usize::MAX).build())
                .contains(&format!("`{name}` is larger")),
            "{name}"
        );
        let _ = with(Supervisor::builder(), 1).build();
    }
}

#[test]
fn a_timeout_without_a_time_driver_is_a_panic_of_the_task() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers");
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::builder()
        .task_timeout(Duration::from_secs(1))
        .build();
    runtime.block_on(async {
        let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
            async |request: Request<()>| {
                request
                    .background_tasks()
                    .expect("the layer is there")
                    .add(tokio::task::yield_now());
                Ok::<_, std::convert::Infallible>(Response::new(String::new()))
            },
        ));
        drop(service.oneshot(Request::new(())).await);
        supervisor.idle().await;
    });
    assert_eq!(supervisor.stats().panicked, 1, "{events:?}");
}

// Bodies that lie.

/// A body that does as it is told, poll by poll, also after its end.
#[derive(Clone)]
struct Liar {
    /// `None` is the end, `Some(Err(()))` an error.
    polls: VecDeque<Option<Result<&'static str, ()>>>,
    says_end: bool,
    hint: SizeHint,
}

impl Body for Liar {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.polls.pop_front().flatten().map(|polled| match polled {
            Ok(data) => Ok(Frame::data(Bytes::from_static(data.as_bytes()))),
            Err(()) => Err("it lies".into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.says_end
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// All that can be seen of a body that is polled so often.
async fn seen<B: Body<Data = Bytes, Error = BoxError> + Unpin>(
    mut body: B,
    polls: usize,
) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..polls {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        all.push(format!(
            "{frame:?} {:?} {}",
            body.size_hint(),
            body.is_end_stream()
        ));
    }
    all
}

#[tokio::test]
async fn bodies_that_lie() {
    let yields = |polls: &[Option<Result<&'static str, ()>>]| Liar {
        polls: polls.iter().copied().collect(),
        says_end: false,
        hint: SizeHint::default(),
    };
    let sized = |size, liar: Liar| Liar {
        hint: SizeHint::with_exact(size),
        ..liar
    };
    let says_end = |liar: Liar| Liar {
        says_end: true,
        ..liar
    };
    // What it does, and how it ends over HTTP/1.1 and over HTTP/2.
    let cases = [
        (
            "yields after None",
            yields(&[Some(Ok("one")), None, Some(Ok("two")), None]),
            [(EndKind::Complete, 3); 2],
        ),
        (
            "fails after None",
            yields(&[Some(Ok("one")), None, Some(Err(())), None]),
            [(EndKind::Complete, 3); 2],
        ),
        (
            "yields after an error",
            yields(&[Some(Err(())), Some(Ok("one")), None]),
            [(EndKind::Failed, 3); 2],
        ),
        (
            "ends again and again",
            yields(&[None, None, None]),
            [(EndKind::Complete, 0); 2],
        ),
        (
            "yields after it said its end",
            says_end(yields(&[Some(Ok("one")), Some(Ok("two")), None])),
            [(EndKind::Complete, 6); 2],
        ),
        (
            "shorter than it says",
            sized(5, yields(&[Some(Ok("one")), None])),
            [(EndKind::Failed, 3); 2],
        ),
        (
            "longer than it says",
            sized(2, yields(&[Some(Ok("one")), None])),
            [(EndKind::Complete, 3), (EndKind::Failed, 3)],
        ),
        (
            "data where it says 0",
            sized(0, yields(&[Some(Ok("one")), None])),
            [(EndKind::Complete, 3), (EndKind::Failed, 3)],
        ),
    ];
    for (case, body, ends) in cases {
        let polls = body.polls.len() + 1;
        let bare = seen(body.clone(), polls).await;
        for (version, (kind, bytes)) in [Version::HTTP_11, Version::HTTP_2].into_iter().zip(ends) {
            let (supervisor, witness) = (Supervisor::new(), Witness::new());
            let response = respond_over(
                version,
                &supervisor,
                |tasks| drop(witness.watch(tasks)),
                body.clone(),
            );
            assert_eq!(
                seen(response.into_body(), polls).await,
                bare,
                "{case} over {version:?}"
            );
            let end = witness.next().await.end;
            assert_eq!(
                (end.kind(), end.bytes()),
                (kind, bytes),
                "{case} over {version:?}"
            );
            assert_eq!(
                end.error().is_some(),
                kind == EndKind::Failed,
                "{case} over {version:?}"
            );
            assert_eq!(
                end.error() == Some(ResponseError::Body),
                case == "yields after an error",
                "{case} over {version:?}"
            );
            soon(supervisor.idle()).await;
            witness.nothing_else().await;
            assert_eq!(
                (supervisor.stats().added(), supervisor.stats().succeeded),
                (1, 1),
                "{case} over {version:?}"
            );
        }
    }
}

// Drops where there is no runtime.

/// The response of a handler that does this with its registry.
fn respond<B: Body>(
    supervisor: &Supervisor,
    handler: impl FnOnce(&BackgroundTasks),
    body: B,
) -> Response<ResponseBody<B>> {
    respond_over(Version::HTTP_11, supervisor, handler, body)
}

fn respond_over<B: Body>(
    version: Version,
    supervisor: &Supervisor,
    handler: impl FnOnce(&BackgroundTasks),
    body: B,
) -> Response<ResponseBody<B>> {
    let mut once = Some((handler, body));
    let service = service_fn(|request: Request<()>| {
        let (handler, body) = once.take().expect("it is called once");
        handler(&request.background_tasks().expect("the layer is there"));
        std::future::ready(Ok::<_, BoxError>(Response::new(body)))
    });
    let request = Request::builder()
        .version(version)
        .body(())
        .expect("a version makes a request");
    let response = BackgroundLayer::with_supervisor(supervisor.clone())
        .layer(service)
        .oneshot(request);
    response
        .now_or_never()
        .expect("it is ready")
        .expect("it does not fail")
}

fn full() -> Full<Bytes> {
    Full::from("hello")
}

/// Panics when it is dropped.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("a captured value panics");
    }
}

/// On a thread of its own, which has no runtime. Returns whether it panicked.
fn elsewhere(f: impl FnOnce() + Send + 'static) -> bool {
    thread::spawn(f).join().is_err()
}

fn assert_aborted(stats: Stats, tasks: u64) {
    assert_eq!(
        (stats.added(), stats.pending(), stats.aborted),
        (tasks, 0, tasks),
        "{stats:?}"
    );
}

#[test]
fn dropped_without_a_runtime_while_the_runtime_lives() {
    let runtime = Runtime::new().expect("a runtime");
    let supervisor = Supervisor::new();
    let (sender, receiver) = mpsc::channel();
    let response = {
        let _inside = runtime.enter();
        let task = Task::with_context(async move |cx| {
            sender
                .send(cx.end().map(ResponseEnd::kind))
                .expect("the test waits");
        });
        respond(&supervisor, |tasks| tasks.add(task), full())
    };
    assert!(!elsewhere(move || drop(response)));
    assert_eq!(
        receiver.recv_timeout(PATIENCE).expect("the task runs"),
        Some(EndKind::Interrupted)
    );
    runtime.block_on(soon(supervisor.idle()));
    assert_eq!(supervisor.stats().succeeded, 1);
}

#[test]
fn dropped_without_a_runtime_after_the_runtime() {
    let runtime = Runtime::new().expect("a runtime");
    let supervisor = Supervisor::new();
    let response = {
        let _inside = runtime.enter();
        respond(
            &supervisor,
            |tasks| tasks.add(Task::new(async {}).named("lost")),
            full(),
        )
    };
    drop(runtime);
    assert_eq!(supervisor.stats().deferred, 1);
    let panicked = elsewhere(move || {
        let (events, _guard) = Events::record();
        drop(response);
        let [
            Entry::Event {
                level: Level::WARN,
                fields,
                ..
            },
        ] = &events.all()[..]
        else {
            panic!("one event: {events:?}")
        };
        assert_eq!(fields["message"], "a background task did not finish");
    });
    assert!(
        !panicked,
        "the drop does not panic, and what is lost is logged"
    );
    assert_aborted(supervisor.stats(), 1);
}

/// Nothing was ever near a runtime, so nothing can run.
#[test]
fn without_any_runtime() {
    let supervisor = Supervisor::new();
    let mut kept = None;
    let response = respond(
        &supervisor,
        |tasks| {
            tasks.add(async {});
            tasks.add(Task::blocking(|| ()));
            kept = Some(tasks.clone());
        },
        full(),
    );
    drop(response);
    assert_aborted(supervisor.stats(), 2);
    kept.expect("the handler has run").add(async {});
    assert_aborted(supervisor.stats(), 3);
}

/// Added where there is no runtime, and over where there is one.
#[tokio::test]
async fn a_runtime_at_the_end() {
    let supervisor = Supervisor::new();
    let inner = supervisor.clone();
    let response = thread::spawn(move || respond(&inner, |tasks| tasks.add(async {}), full()))
        .join()
        .expect("it does not panic");
    drop(response);
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().added(), supervisor.stats().succeeded),
        (1, 1)
    );
}

/// A panic that meets another one while it unwinds would abort the process, and this test with it.
#[test]
fn dropped_while_unwinding() {
    let supervisor = Supervisor::new();
    let inner = supervisor.clone();
    let panicked = elsewhere(move || {
        let mine = Mine;
        let task = Task::new(async move { drop(mine) }).named("mine");
        let blocking = Mine;
        let _response = respond(
            &inner,
            |tasks| {
                tasks.add(task);
                tasks.add(Task::blocking(move || drop(blocking)));
                tasks.add(async {});
            },
            full(),
        );
        panic!("the thread panics");
    });
    assert!(panicked);
    assert_aborted(supervisor.stats(), 3);
}

/// As above, with a runtime: the tasks are spawned, and see what happened.
#[test]
fn dropped_while_unwinding_beside_a_runtime() {
    let runtime = Runtime::new().expect("a runtime");
    let supervisor = Supervisor::new();
    let (sender, receiver) = mpsc::channel();
    let (inner, handle) = (supervisor.clone(), runtime.handle().clone());
    let panicked = elsewhere(move || {
        let _inside = handle.enter();
        let mine = Mine;
        let _response = respond(
            &inner,
            |tasks| {
                tasks.add(Task::new(async move { drop(mine) }).when(When::Complete));
                tasks.add(Task::with_context(async move |cx| {
                    sender
                        .send(cx.end().map(ResponseEnd::kind))
                        .expect("the test waits");
                }));
            },
            full(),
        );
        panic!("the thread panics");
    });
    assert!(panicked);
    assert_eq!(
        receiver.recv_timeout(PATIENCE).expect("the task runs"),
        Some(EndKind::Panicked)
    );
    runtime.block_on(soon(supervisor.idle()));
    let stats = supervisor.stats();
    assert_eq!(
        (stats.added(), stats.skipped, stats.succeeded),
        (2, 1, 1),
        "{stats:?}"
    );
}

/// Adds a task when it is dropped.
struct AddsAtDrop(BackgroundTasks);

impl Drop for AddsAtDrop {
    fn drop(&mut self) {
        self.0.add(async {});
    }
}

/// Says that it has started, does not end, and holds a value meanwhile.
async fn hang<T>(started: mpsc::Sender<()>, _held: T) {
    started.send(()).expect("the test waits");
    std::future::pending::<()>().await;
}

#[test]
fn the_runtime_goes_down() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let supervisor = Supervisor::new();
    let (started, begun) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let mut kept = None;
    let handler = |tasks: &BackgroundTasks| {
        tasks.add(hang(started.clone(), ()));
        tasks.add(hang(started.clone(), Mine));
        tasks.add(hang(started.clone(), AddsAtDrop(tasks.clone())));
        tasks.add(Task::blocking(move || {
            started.send(()).expect("the test waits");
            finished.recv().expect("the test tells it to end");
        }));
        kept = Some(tasks.clone());
    };
    let deferred = runtime.block_on(async {
        drop(respond(&supervisor, handler, full()));
        // The tasks run on this thread, once it yields.
        for _ in 0..4 {
            while begun.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        }
        // Its task is spawned, and nothing yields any more.
        drop(respond(
            &supervisor,
            |tasks| tasks.add(hang(mpsc::channel().0, Mine)),
            full(),
        ));
        respond(&supervisor, |tasks| tasks.add(async {}), full())
    });
    let now = supervisor.stats();
    assert_eq!(
        (now.deferred, now.queued, now.running),
        (1, 0, 5),
        "{now:?}"
    );

    runtime.shutdown_background();
    let now = supervisor.stats();
    assert_eq!(
        (now.added(), now.deferred, now.aborted),
        (7, 1, 6),
        "one was added by a drop, one is deferred: {now:?}"
    );
    drop(deferred);
    kept.expect("the handler has run").add(async {});
    assert_aborted(supervisor.stats(), 8);
    finish.send(()).expect("the blocking function still runs");
}
