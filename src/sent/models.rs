//! Models of a response on a tracked connection: the layer, the server and the connection act at
//! the same time, and loom tries all orders of their steps.
//!
//! Run them by `RUSTC_WORKSPACE_WRAPPER="$PWD/.ci/with-loom" cargo test --no-default-features
//! --features sent --lib models`.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
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

use super::{SentBody, SentConnection};
use crate::{
    middleware::{BackgroundLayer, ResponseBody},
    registry::BackgroundTasksExt,
    response::EndKind,
    supervisor::Supervisor,
    task::{StartOn, Task},
    util::sync::check,
};

type Sent = SentBody<ResponseBody<String>>;

const BODY: &str = "hello";

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A tracked connection, and a response whose task notes how it ended. The runtime of the task only
/// runs inside [`has_run`](Self::has_run).
struct Case {
    runtime: Runtime,
    supervisor: Supervisor,
    connection: SentConnection,
    ends: Arc<Mutex<Vec<EndKind>>>,
}

impl Case {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let supervisor = Supervisor::builder()
            .runtime(runtime.handle().clone())
            .start_on(StartOn::LastByteSent)
            .build();
        Self {
            runtime,
            supervisor,
            connection: SentConnection::new(),
            ends: Arc::default(),
        }
    }

    /// Returns a response, and the only frame of its body.
    fn respond(&self, version: Version) -> (Response<Sent>, Frame<Bytes>) {
        let ends = Arc::clone(&self.ends);
        let service = service_fn(move |request: Request<()>| {
            let ends = Arc::clone(&ends);
            let task = Task::with_context(move |cx| async move {
                let end = cx.end().expect("the task has a request");
                ends.lock().unwrap().push(end.kind());
            });
            request.background_tasks().unwrap().add(task);
            std::future::ready(Ok::<_, Infallible>(Response::new(BODY.to_owned())))
        });
        let layer = BackgroundLayer::with_supervisor(self.supervisor.clone());
        let mut request = Request::new(());
        *request.version_mut() = version;
        let future = self.connection.layer(layer.layer(service)).call(request);
        let Poll::Ready(Ok(mut response)) = pin!(future).poll(&mut cx()) else {
            unreachable!("the service answers at once")
        };
        match Pin::new(response.body_mut()).poll_frame(&mut cx()) {
            Poll::Ready(Some(Ok(frame))) => (response, frame),
            _ => unreachable!("the body is there at once"),
        }
    }

    /// Runs the runtime, and returns whether the task has run.
    fn has_run(&self) -> bool {
        self.runtime.block_on(async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        });
        !self.ends.lock().unwrap().is_empty()
    }

    /// Checks that the response ended once, and in this way.
    fn assert_ended(self, expected: EndKind) {
        assert!(self.has_run(), "the task never starts");
        assert_eq!(*self.ends.lock().unwrap(), [expected]);
        assert_eq!(self.supervisor.open_responses(), 0);
    }
}

/// Runs one step of the task that serves the connection, and writes what the step dropped.
fn serve(connection: &SentConnection, step: impl FnOnce() + Send + 'static) {
    let runtime = runtime::Builder::new_current_thread().build().unwrap();
    let connection = connection.clone();
    let served = runtime.handle().spawn(async move {
        connection.state.before_read();
        connection.state.after_read(false);
        step();
        connection.state.before_write(BODY.len());
    });
    runtime.block_on(served).unwrap();
}

/// Runs both at the same time. Each begins with a step that loom sees, so loom tries both orders.
fn race<A: 'static>(one: impl FnOnce() -> A + 'static, other: impl FnOnce()) -> A {
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
fn a_response_is_dropped_while_the_connection_is_flushed() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        check(move || {
            let case = Case::new();
            let (response, last) = case.respond(version);
            drop(last);
            let state = Arc::clone(&case.connection.state);
            race(move || drop(response), move || state.note_flush());
            case.connection.state.note_read_cycle();
            case.connection.state.note_flush();
            // Over HTTP/2 the frame was dropped outside of the task that serves the connection, so
            // it was not written.
            case.assert_ended(if version == Version::HTTP_2 {
                EndKind::Interrupted
            } else {
                EndKind::Complete
            });
        });
    }
}

#[test]
fn a_response_is_dropped_while_the_connection_closes() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        check(move || {
            let case = Case::new();
            let (response, last) = case.respond(version);
            let state = Arc::clone(&case.connection.state);
            race(move || drop((last, response)), move || state.close());
            case.assert_ended(EndKind::Interrupted);
        });
    }
}

#[test]
fn the_last_frame_is_written_while_the_stream_drops_the_response() {
    check(|| {
        let case = Case::new();
        let (response, last) = case.respond(Version::HTTP_2);
        let connection = case.connection.clone();
        race(
            move || drop(response),
            move || {
                // A flush before the write is a flush of other frames.
                connection.state.note_flush();
                serve(&connection, move || drop(last));
            },
        );
        assert!(!case.has_run(), "the frame was not flushed");
        case.connection.state.note_flush();
        case.assert_ended(EndKind::Complete);
    });
}

#[test]
fn a_stream_drops_a_response_whose_last_frame_was_flushed() {
    check(|| {
        let case = Case::new();
        let (response, last) = case.respond(Version::HTTP_2);
        let connection = case.connection.clone();
        race(
            move || drop(response),
            move || {
                serve(&connection, move || drop(last));
                connection.state.note_flush();
            },
        );
        // Nothing more happens on the connection.
        case.assert_ended(EndKind::Complete);
    });
}
