//! Responses and servers that the tests of HTTP/1.1 and of HTTP/2 share.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::Response;
use http_body_util::{Empty, Full};
use tokio::sync::Notify;
use tower_background::{Supervisor, report::ResponseError};

use crate::common::{Script, Seen, Server, Step};

/// Returns a body of two frames with three bytes each, which ends in `None`.
pub(crate) fn stream() -> Script {
    Script::new([Step::data("one"), Step::data("two")])
}

pub(crate) fn with_status<B>(status: u16, body: B) -> Response<B> {
    Response::builder()
        .status(status)
        .body(body)
        .expect("the status is valid")
}

pub(crate) fn declaring<B>(length: &'static str, body: B) -> Response<B> {
    Response::builder()
        .header("content-length", length)
        .body(body)
        .expect("the header is valid")
}

/// Serves a body that has its length and one frame.
pub(crate) async fn full() -> Server {
    Server::new(|_, _| Response::new(Full::<Bytes>::from("hello"))).await
}

/// Serves an empty body with this status.
pub(crate) async fn empty(status: u16) -> Server {
    Server::new(move |_, _| with_status(status, Empty::<Bytes>::new())).await
}

/// Serves by a handler that never answers. The second value tells that the handler was called.
pub(crate) async fn silent() -> (Server, Arc<Notify>) {
    let called = Arc::new(Notify::new());
    let calls = called.clone();
    let server = Server::awaiting(move |_, _| {
        calls.notify_one();
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    })
    .await;
    (server, called)
}

/// Serves a body that yields a frame, waits until the second value is notified, and then takes the
/// steps of `last`. The body of the path `/next` is empty.
pub(crate) async fn pausing<const N: usize>(
    supervisor: Supervisor,
    last: fn() -> [Step; N],
) -> (Server, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let server = Server::with(supervisor, move |request, course| {
        let steps = [Step::data("one"), Step::Wait(wait.clone())];
        let body = match request.uri().path() {
            "/next" => Script::new([]),
            _ => Script::new(steps.into_iter().chain(last())),
        };
        Response::new(body.seen_by(course.expect_body()))
    })
    .await;
    (server, go)
}

/// Checks that the body yielded 3 of 6 declared bytes.
pub(crate) fn assert_too_short(seen: &Seen) {
    let error = seen.end.error();
    assert!(
        matches!(
            error,
            Some(ResponseError::TooShort {
                declared: 6,
                yielded: 3,
                ..
            })
        ),
        "{seen:?}"
    );
}
