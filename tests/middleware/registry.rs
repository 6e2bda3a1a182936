//! All ways to add tasks to a registry, and what happens to the tasks: removing, adding late, order
//! and arguments.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use async_stream::stream;
use axum::{
    Extension, Router,
    body::Body,
    extract::{FromRequestParts, Request},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use http_body::Frame;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, EndKind, MissingLayer, Order,
    ResponseEnd, Supervisor, Task, TaskContext, When, defer,
};

use crate::common::{Call, Server, Witness, chunk, open, soon, text};

/// Where tasks note what they see.
#[derive(Clone)]
struct Notes(mpsc::UnboundedSender<(EndKind, String)>);

type Log = mpsc::UnboundedReceiver<(EndKind, String)>;

impl Notes {
    fn new() -> (Self, Log) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// A task that notes this, and after what end it ran.
    fn task(&self, text: impl Into<String>) -> Task {
        let (notes, text) = (self.clone(), text.into());
        Task::with_context(async move |cx| notes.note(&cx, text)).when(When::Always)
    }

    fn note(&self, cx: &TaskContext, text: impl Into<String>) {
        self.0
            .send((
                cx.end().expect("it is a task of a request").kind(),
                text.into(),
            ))
            .expect("the test waits");
    }
}

/// Serves one handler below the layer, which finds the notes in its request.
async fn serve(handler: MethodRouter) -> (Server, Log) {
    serve_router(Router::new().route("/", handler)).await
}

async fn serve_router(router: Router) -> (Server, Log) {
    let (notes, log) = Notes::new();
    let supervisor = Supervisor::new();
    let router = router
        .layer(Extension(notes))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    (Server::serve(router, supervisor, Witness::new()).await, log)
}

/// All that was noted, when nothing is left to run.
async fn all(server: &Server, log: &mut Log) -> Vec<(EndKind, String)> {
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!(stats.added(), stats.succeeded + stats.removed, "{stats:?}");
    std::iter::from_fn(|| log.try_recv().ok()).collect()
}

/// Calls the handler once. Checks that its tasks noted these texts, after a complete response.
async fn assert_notes(handler: MethodRouter, expected: &[&str]) {
    let (server, mut log) = serve(handler).await;
    assert_eq!(text(&server, "/").await, "done");
    let expected: Vec<_> = expected
        .iter()
        .map(|text| (EndKind::Complete, (*text).to_owned()))
        .collect();
    assert_eq!(all(&server, &mut log).await, expected);
}

// Ways to add.

#[tokio::test]
async fn by_the_extractor() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        tasks.add(notes.task("extracted"));
        "done"
    };
    assert_notes(get(handler), &["extracted"]).await;
}

#[tokio::test]
async fn by_the_request() {
    let handler = async |Extension(notes): Extension<Notes>, request: Request| {
        request.background_tasks()?.add(notes.task("request"));
        request
            .extensions()
            .background_tasks()?
            .add(notes.task("extensions"));
        request
            .into_parts()
            .0
            .background_tasks()?
            .add(notes.task("parts"));
        Ok::<_, MissingLayer>("done")
    };
    assert_notes(get(handler), &["request", "extensions", "parts"]).await;
}

/// An extractor of one's own that leaves a task.
struct Audited;

impl<S: Sync> FromRequestParts<S> for Audited {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        let notes = parts
            .extensions
            .get::<Notes>()
            .expect("the test provides it");
        parts.background_tasks()?.add(notes.task("audited"));
        Ok(Self)
    }
}

#[tokio::test]
async fn by_an_extractor_of_ones_own() {
    assert_notes(get(async |_: Audited| "done"), &["audited"]).await;
}

async fn deep_below(notes: Notes) {
    tokio::task::yield_now().await;
    let current = BackgroundTasks::current().expect("this is below a handler");
    current.add(notes.task("current"));
    defer(notes.task("deferred")).expect("this is below a handler");
}

#[tokio::test]
async fn deep_below_the_handler() {
    let handler = async |Extension(notes): Extension<Notes>| {
        // Boxed and joined, as libraries do.
        tokio::join!(Box::pin(deep_below(notes)), tokio::task::yield_now());
        "done"
    };
    assert_notes(get(handler), &["current", "deferred"]).await;
}

#[tokio::test]
async fn in_the_body_stream() {
    let handler = async |Extension(notes): Extension<Notes>| {
        Body::from_stream(stream! {
            defer(notes.task("before the first chunk")).expect("this is the request's body");
            yield Ok::<_, MissingLayer>("do");
            tokio::task::yield_now().await;
            yield Ok("ne");
            defer(notes.task("after the last chunk")).expect("this is the request's body");
        })
    };
    assert_notes(
        get(handler),
        &["before the first chunk", "after the last chunk"],
    )
    .await;
}

/// Leaves a task when it is dropped.
struct Leaves(BackgroundTasks, Notes);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.add(self.1.task("dropped"));
    }
}

/// A body whose drop leaves a task.
struct Leaving {
    data: Option<&'static str>,
    hangs: bool,
    _leaves: Leaves,
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = MissingLayer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, MissingLayer>>> {
        match self.data.take() {
            None if self.hangs => Poll::Pending,
            data => {
                Poll::Ready(data.map(|data| Ok(Frame::data(Bytes::from_static(data.as_bytes())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // The server drops the body after its last frame, without another poll. So the drop adds
        // its task before the tasks start.
        self.data.is_none() && !self.hangs
    }
}

#[tokio::test]
async fn in_the_drop_of_the_body() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        tasks.add(notes.task("handler"));
        let body = Leaving {
            data: Some("done"),
            hangs: false,
            _leaves: Leaves(tasks, notes),
        };
        Body::new(body)
    };
    assert_notes(get(handler), &["handler", "dropped"]).await;
}

/// Checks that the only note is that of [`Leaves`], after this end.
async fn assert_dropped_after(server: &Server, log: &mut Log, end: EndKind) {
    let note = soon(log.recv()).await.expect("a note");
    assert_eq!(note, (end, "dropped".to_owned()));
    assert_eq!(all(server, log).await, []);
}

#[tokio::test]
async fn in_the_drop_of_a_body_that_is_cut_off() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        Body::new(Leaving {
            data: Some("do"),
            hangs: true,
            _leaves: Leaves(tasks, notes),
        })
    };
    let (server, mut log) = serve(get(handler)).await;
    let mut response = open(&server, "/").await;
    assert_eq!(chunk(&mut response).await, "do");
    drop(response);
    assert_dropped_after(&server, &mut log, EndKind::Interrupted).await;
}

#[tokio::test]
async fn in_the_drop_of_a_handler_whose_client_left() {
    let entered = Arc::new(Notify::new());
    let entering = entered.clone();
    let handler = async move |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        let _leaves = Leaves(tasks, notes);
        entering.notify_one();
        std::future::pending::<&'static str>().await
    };
    let (server, mut log) = serve(get(handler)).await;
    let mut client = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("it reads");
    soon(entered.notified()).await;
    drop(client);
    assert_dropped_after(&server, &mut log, EndKind::NoResponse).await;
}

#[tokio::test]
async fn in_a_running_task() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        tasks.add(Task::with_context(async move |cx| {
            notes.note(&cx, "parent");
            tokio::task::yield_now().await;
            BackgroundTasks::current()
                .expect("a task has its request's registry")
                .add(notes.task("current"));
            defer(notes.task("deferred"))
        }));
        "done"
    };
    assert_notes(get(handler), &["parent", "current", "deferred"]).await;
}

#[tokio::test]
async fn in_a_blocking_task() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        tasks.add(Task::blocking_with_context(move |cx| {
            notes.note(&cx, "parent");
            defer(notes.task("deferred"))
        }));
        "done"
    };
    assert_notes(get(handler), &["parent", "deferred"]).await;
}

#[tokio::test]
async fn as_a_part_of_the_response() {
    let handler = async |Extension(notes): Extension<Notes>| {
        (
            StatusCode::OK,
            notes.task("first"),
            notes.task("second"),
            "done",
        )
    };
    assert_notes(get(handler), &["first", "second"]).await;
}

/// A middleware between the layer and the handler finds the registry too, before and after the
/// handler.
#[tokio::test]
async fn around_the_handler() {
    async fn around(
        Extension(notes): Extension<Notes>,
        request: Request,
        next: Next,
    ) -> Result<Response, MissingLayer> {
        request.background_tasks()?.add(notes.task("before"));
        let response = next.run(request).await;
        defer(notes.task("after")).expect("this is code of the request");
        Ok(response)
    }
    let handler = async |Extension(notes): Extension<Notes>| (notes.task("handler"), "done");
    assert_notes(
        get(handler).layer(from_fn(around)),
        &["before", "handler", "after"],
    )
    .await;
}

/// Code of no request has no registry, also on a thread that has just run code of one.
#[tokio::test]
async fn outside_of_requests() {
    let handler = async |tasks: BackgroundTasks| {
        let spawned = tokio::spawn(async { BackgroundTasks::current().is_none() });
        assert!(
            spawned.await.expect("it does not panic"),
            "another tokio task is not below the handler"
        );
        tasks.add(async {});
        "done"
    };
    let outside = async |request: Request, next: Next| {
        let response = next.run(request).await;
        assert!(BackgroundTasks::current().is_none());
        response
    };
    let supervisor = Supervisor::new();
    let router = Router::new()
        .route("/", get(handler))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .layer(from_fn(outside));
    let server = Server::serve(router, supervisor, Witness::new()).await;
    assert_eq!(text(&server, "/").await, "done");
    soon(server.supervisor.idle()).await;
    assert!(BackgroundTasks::current().is_none());
    assert_eq!(server.supervisor.stats().succeeded, 1);
}

// What becomes of them.

#[tokio::test]
async fn taken_back() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        tasks.add(notes.task("one").named("mail"));
        tasks.add(notes.task("two").named("push"));
        tasks.add(notes.task("three"));
        tasks.add(notes.task("four").named("mail"));
        assert_eq!(
            (tasks.remove("mail"), tasks.remove("mail"), tasks.remove("")),
            (2, 0, 0)
        );
        // One of the same name that is added later stays.
        tasks.add(notes.task("five").named("mail"));
        "done"
    };
    let (server, mut log) = serve(get(handler)).await;
    assert_eq!(text(&server, "/").await, "done");
    let texts: Vec<_> = all(&server, &mut log)
        .await
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(texts, ["two", "three", "five"]);
    let stats = server.supervisor.stats();
    assert_eq!((stats.added(), stats.removed), (5, 2), "{stats:?}");
}

/// What runs cannot be taken back, and nor can what has ended.
#[tokio::test]
async fn taken_back_too_late() {
    let (kept, mut keeps) = mpsc::unbounded_channel();
    let handler = async move |tasks: BackgroundTasks| {
        let registry = tasks.clone();
        tasks.add(Task::new(async move { assert_eq!(registry.remove("mail"), 0) }).named("mail"));
        kept.send(tasks).expect("the test waits");
        "done"
    };
    let (server, mut log) = serve(get(handler)).await;
    assert_eq!(text(&server, "/").await, "done");
    all(&server, &mut log).await;
    assert_eq!(
        keeps
            .recv()
            .await
            .expect("the handler has run")
            .remove("mail"),
        0
    );
    let stats = server.supervisor.stats();
    assert_eq!((stats.added(), stats.succeeded), (1, 1), "{stats:?}");
}

/// Makes a request, and returns its notes and its registry after the response.
async fn after_the_response() -> (Server, Log, Notes, BackgroundTasks) {
    let (kept, mut keeps) = mpsc::unbounded_channel();
    let handler = async move |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        kept.send((notes, tasks)).expect("the test waits");
        "done"
    };
    let (server, log) = serve(get(handler)).await;
    assert_eq!(text(&server, "/").await, "done");
    let (notes, tasks) = keeps.recv().await.expect("the handler has run");
    (server, log, notes, tasks)
}

/// A registry may outlive its request. A task that is added then starts at once, and sees the end.
#[tokio::test]
async fn added_late() {
    let (server, mut log, notes, tasks) = after_the_response().await;
    for nth in ["first", "second"] {
        let noting = notes.clone();
        tasks.add(Task::with_context(async move |cx| {
            noting.note(
                &cx,
                format!("{nth}, {} B", cx.end().map_or(0, ResponseEnd::bytes)),
            );
        }));
        assert_eq!(
            all(&server, &mut log).await,
            [(EndKind::Complete, format!("{nth}, 4 B"))]
        );
    }
}

/// On a runtime of one thread, late tasks too are over in the order in which they were added.
#[tokio::test]
async fn added_late_in_order() {
    let (server, mut log, notes, tasks) = after_the_response().await;
    for nth in ["first", "second", "third"] {
        tasks.add(notes.task(nth));
    }
    let expected = ["first", "second", "third"].map(|nth| (EndKind::Complete, nth.to_owned()));
    assert_eq!(all(&server, &mut log).await, expected);
}

/// Another tokio task adds while the response is open, so the added task waits for its end.
#[tokio::test]
async fn added_from_elsewhere() {
    let go = Arc::new(Notify::new());
    let opens = go.clone();
    let handler = async move |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        Body::from_stream(stream! {
            yield Ok::<_, MissingLayer>("do");
            opens.notified().await;
            let elsewhere = tokio::spawn(async move { tasks.add(notes.task("from elsewhere")) });
            elsewhere.await.expect("it does not panic");
            yield Ok("ne");
        })
    };
    let (server, mut log) = serve(get(handler)).await;
    let response = open(&server, "/").await;
    assert_eq!(server.supervisor.stats().added(), 0);
    go.notify_one();
    assert_eq!(soon(response.text()).await.expect("a whole body"), "done");
    assert_eq!(
        all(&server, &mut log).await,
        [(EndKind::Complete, "from elsewhere".to_owned())]
    );
}

/// On a runtime of one thread, tasks that do not wait end in the order in which they were added.
#[tokio::test]
async fn in_order_and_with_arguments() {
    let handler = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        for nth in 0..5 {
            // Owned, shared and borrowed for ever: a task may take what its handler has.
            let (owned, shared, borrowed) = (vec![nth; 2], Arc::new(nth * 10), "static");
            let notes = notes.clone();
            tasks.add(Task::with_context(async move |cx| {
                notes.note(&cx, format!("{nth} {owned:?} {shared} {borrowed}"));
            }));
        }
        "done"
    };
    let expected: Vec<_> = (0..5)
        .map(|nth| format!("{nth} [{nth}, {nth}] {} static", nth * 10))
        .collect();
    assert_notes(
        get(handler),
        &expected.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
}

/// A handler reads what was there before its tasks. The next request reads what the task wrote.
#[tokio::test]
async fn the_response_first_then_the_task() {
    #[derive(Clone, Default)]
    struct Store(Arc<Mutex<u32>>);

    impl Store {
        fn read(&self) -> String {
            self.0.lock().expect("nothing panics with it").to_string()
        }

        fn increment(self) {
            *self.0.lock().expect("nothing panics with it") += 1;
        }
    }

    async fn at_once(Extension(store): Extension<Store>, tasks: BackgroundTasks) -> String {
        let writing = store.clone();
        tasks.add(async move { writing.increment() });
        tokio::task::yield_now().await;
        store.read()
    }

    /// Reads as late as a response can.
    async fn late(Extension(store): Extension<Store>, tasks: BackgroundTasks) -> impl IntoResponse {
        let writing = store.clone();
        tasks.add(async move { writing.increment() });
        Body::from_stream(stream! {
            yield Ok::<_, MissingLayer>(String::new());
            tokio::task::yield_now().await;
            yield Ok(store.read());
        })
    }

    let store = Store::default();
    let router = Router::new()
        .route("/at-once", get(at_once))
        .route("/late", get(late))
        .layer(Extension(store.clone()));
    let (server, _noted) = serve_router(router).await;
    for (nth, path) in ["/at-once", "/late", "/at-once", "/late"]
        .into_iter()
        .enumerate()
    {
        assert_eq!(text(&server, path).await, nth.to_string());
        soon(server.supervisor.idle()).await;
        assert_eq!(store.read(), (nth + 1).to_string());
    }
}

#[tokio::test]
async fn names_are_in_the_order_added_until_the_start() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    for name in ["one", "two", "three"] {
        call.tasks.add(Task::new(async {}).named(name));
    }
    let names = |tasks: &BackgroundTasks| tasks.names().into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(names(&call.tasks), ["one", "two", "three"]);
    assert_eq!(call.tasks.remove("two"), 1);
    call.tasks.add(Task::new(async {}).named("four"));
    assert_eq!(names(&call.tasks), ["one", "three", "four"]);
    let tasks = call.tasks.clone();
    drop(call.answer().await);
    assert_eq!(
        names(&tasks),
        [""; 0],
        "they have started, and none has been polled"
    );
    soon(supervisor.idle()).await;
}

/// The order, the tasks and the end of one request are its own.
#[tokio::test]
async fn requests_share_nothing() {
    let (kept, mut keeps) = mpsc::unbounded_channel();
    let first = async move |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        tasks.set_order(Order::FailFast);
        tasks.add(async { Err::<(), _>("as it should") });
        tasks.add(notes.task("skipped"));
        kept.send(tasks).expect("the test waits");
        "first"
    };
    let second = async |Extension(notes): Extension<Notes>, tasks: BackgroundTasks| {
        assert!(tasks.names().is_empty());
        tasks.add(async { Err::<(), _>("as it should") });
        tasks.add(notes.task("runs"));
        "second"
    };
    let (server, mut log) = serve_router(
        Router::new()
            .route("/first", get(first))
            .route("/second", get(second)),
    )
    .await;
    for nth in 1..=3 {
        for path in ["/first", "/second"] {
            assert_eq!(text(&server, path).await, &path[1..]);
            soon(server.supervisor.idle()).await;
        }
        assert_eq!(
            soon(log.recv()).await,
            Some((EndKind::Complete, "runs".to_owned()))
        );
        assert!(log.try_recv().is_err());
        // A handle that is kept still belongs to its own request.
        let tasks = keeps.recv().await.expect("the handler has run");
        let (sender, seen) = oneshot::channel();
        tasks.add(Task::with_context(async move |cx| {
            sender
                .send(cx.end().map(|end| (end.path().to_owned(), end.bytes())))
                .expect("the test waits");
        }));
        assert!(soon(seen).await.is_err(), "a failure has stopped its tasks");
        soon(server.supervisor.idle()).await;
        let stats = server.supervisor.stats();
        assert_eq!(
            (stats.failed, stats.skipped, stats.succeeded),
            (2 * nth, 2 * nth, nth),
            "{stats:?}"
        );
    }
}
