//! Models of a response on a tracked connection: what the layer, the server and the connection do at once. See `models.rs`.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame};
use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use tokio::runtime::{self, Runtime};
use tower::{Layer, Service, service_fn};

use crate::{
    BackgroundLayer, BackgroundTasksExt, End, Release, ResponseBody, SentBody, Supervisor, Task, TaskContext, models::check,
    sent_connection::SentConnection,
};

type Sent = SentBody<ResponseBody<String>>;

/// A response of a tracked connection, whose task runs on a runtime that stands still until it is told to run.
struct Case {
    runtime: Runtime,
    supervisor: Supervisor,
    connection: SentConnection,
    ends: Arc<std::sync::Mutex<Vec<End>>>,
}

impl Case {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let supervisor = Supervisor::builder().runtime(runtime.handle().clone()).release(Release::Sent).build();
        Self { runtime, supervisor, connection: SentConnection::new(), ends: Arc::default() }
    }

    fn respond(&self, version: Version) -> Response<Sent> {
        let ends = self.ends.clone();
        let service = service_fn(move |request: Request<()>| {
            let ends = ends.clone();
            let task = Task::with_context(move |cx: TaskContext| async move { ends.lock().unwrap().push(cx.end().kind()) });
            request.background_tasks().unwrap().add(task);
            std::future::ready(Ok::<_, Infallible>(Response::new("hello".to_owned())))
        });
        let service = BackgroundLayer::with(self.supervisor.clone()).layer(service);
        let mut request = Request::new(());
        *request.version_mut() = version;
        let future = self.connection.layer(service).call(request);
        let polled = std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(response)) = polled else { unreachable!("the service answers at once") };
        response
    }

    /// Has the runtime run what it has, and tells whether the task has.
    fn has_run(&self) -> bool {
        self.runtime.block_on(async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        });
        !self.ends.lock().unwrap().is_empty()
    }

    /// The response ended once, and like that.
    fn settled(self, expected: End) {
        assert!(self.has_run(), "the task never starts");
        assert_eq!(*self.ends.lock().unwrap(), [expected]);
        assert_eq!(self.supervisor.open_responses(), 0);
    }
}

/// The only frame of the body.
fn frame(body: &mut Sent) -> Frame<Bytes> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame,
        _ => unreachable!("the body is there at once"),
    }
}

/// Serves a connection for one step, as the task does that drops what it has written.
fn serve(connection: &SentConnection, step: impl FnOnce() + Send + 'static) {
    let runtime = runtime::Builder::new_current_thread().build().unwrap();
    let connection = connection.clone();
    let served = runtime.handle().spawn(async move {
        connection.touch();
        connection.read(false);
        step();
        connection.writes();
    });
    runtime.block_on(served).unwrap();
}

/// Runs one at once with the other.
fn beside<A: 'static>(one: impl FnOnce() -> A + 'static, other: impl FnOnce()) -> A {
    let begin = loom::sync::Arc::new(AtomicUsize::new(0));
    let begun = begin.clone();
    let one = thread::spawn(move || {
        begun.fetch_add(1, Ordering::Relaxed);
        one()
    });
    begin.fetch_add(1, Ordering::Relaxed);
    other();
    one.join().unwrap()
}

#[test]
fn a_response_is_let_go_of_and_the_connection_is_flushed() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        check(3, move || {
            let case = Case::new();
            let mut response = case.respond(version);
            drop(frame(response.body_mut()));
            let connection = case.connection.clone();
            beside(move || drop(response), move || connection.flushed());
            case.connection.turn(&Context::from_waker(Waker::noop()));
            case.connection.flushed();
            // What was dropped where the connection is not served was given up over HTTP/2.
            case.settled(if version == Version::HTTP_2 { End::Aborted } else { End::Complete });
        });
    }
}

#[test]
fn a_response_is_let_go_of_and_the_connection_is_lost() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        check(3, move || {
            let case = Case::new();
            let mut response = case.respond(version);
            let last = frame(response.body_mut());
            let connection = case.connection.clone();
            beside(move || drop((last, response)), move || connection.close());
            case.settled(End::Aborted);
        });
    }
}

#[test]
fn the_last_frame_is_written_while_the_stream_lets_go() {
    check(3, || {
        let case = Case::new();
        let mut response = case.respond(Version::HTTP_2);
        let last = frame(response.body_mut());
        let connection = case.connection.clone();
        beside(
            move || drop(response),
            move || {
                // A flush before the write is of something else.
                connection.flushed();
                serve(&connection, move || drop(last));
            },
        );
        assert!(!case.has_run(), "it was not flushed");
        case.connection.flushed();
        case.settled(End::Complete);
    });
}

#[test]
fn a_stream_lets_go_of_what_was_written_and_flushed() {
    check(3, || {
        let case = Case::new();
        let mut response = case.respond(Version::HTTP_2);
        let last = frame(response.body_mut());
        let connection = case.connection.clone();
        beside(
            move || drop(response),
            move || {
                serve(&connection, move || drop(last));
                connection.flushed();
            },
        );
        // Nothing more comes to pass on the connection.
        case.settled(End::Complete);
    });
}
