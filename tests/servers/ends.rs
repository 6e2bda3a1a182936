//! How wrong responses end: the body panics at the head, no server sends the status, the declared
//! length is no number, or the version is not that of the request.

use std::{
    convert::Infallible,
    future::ready,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, EndKind, Supervisor, Task, When};
use tower_http::catch_panic::CatchPanicLayer;

use crate::common::{Multiplexed, Raw, Script, Server, Step, Witness, open, rest, soon};

/// A body that panics when it is asked for its size, or for its end.
#[derive(Debug, Clone, Copy)]
enum Panics {
    SizeHint,
    IsEndStream,
}

impl Body for Panics {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        assert!(
            !matches!(self, Self::SizeHint),
            "the body does not tell its size"
        );
        SizeHint::default()
    }

    fn is_end_stream(&self) -> bool {
        assert!(
            !matches!(self, Self::IsEndStream),
            "the body does not tell its end"
        );
        false
    }
}

/// The panic is caught around one poll, and the future is dropped later, when nothing panics.
#[tokio::test]
async fn a_body_that_panics_at_the_head() {
    for body in [Panics::SizeHint, Panics::IsEndStream] {
        let (supervisor, witness) = (Supervisor::new(), Witness::new());
        let service = service_fn(|request: Request<()>| {
            witness.watch(&request.background_tasks().expect("the layer is there"));
            ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let mut future = Box::pin(
            BackgroundLayer::with_supervisor(supervisor.clone())
                .layer(service)
                .call(Request::new(())),
        );
        let mut cx = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| drop(future.as_mut().poll(&mut cx))));
        assert!(polled.is_err(), "{body:?} should panic at the head");
        drop(future);
        assert_eq!(
            witness.next().await.end.kind(),
            EndKind::Panicked,
            "{body:?}"
        );
        soon(supervisor.idle()).await;
        witness.nothing_else().await;
    }
}

#[tokio::test]
async fn a_body_that_panics_at_the_head_under_catch_panic() {
    for body in [Panics::SizeHint, Panics::IsEndStream] {
        let (supervisor, witness) = (Supervisor::new(), Witness::new());
        let watching = witness.clone();
        let service = ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
            .service_fn(move |request: Request<Incoming>| {
                watching.watch(&request.background_tasks().expect("the layer is there"));
                ready(Ok::<_, Infallible>(Response::new(body)))
            });
        let server = Server::serve(service, supervisor.clone(), witness.clone()).await;
        let response = open(&server, "/").await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            witness.next().await.end.kind(),
            EndKind::Panicked,
            "{body:?}"
        );
        soon(supervisor.idle()).await;
    }
}

/// Serves this response. Each request leaves a witness and a task that runs after a success.
async fn serve<B>(respond: impl Fn() -> Response<B> + Clone + Send + Sync + 'static) -> Server
where
    B: Body<Data: Send, Error: Into<tower_background::BoxError>> + Send + 'static,
{
    let respond = move |request: Request<Incoming>, _| {
        let tasks = request.background_tasks().expect("the layer is there");
        tasks.add(
            Task::new(async {})
                .named("after success")
                .when(When::Success),
        );
        respond()
    };
    Server::new(respond).await
}

/// The end was `Failed`, and the task that waits for a success was skipped.
async fn assert_failed(server: &Server, what: &str) {
    let seen = server.witness.next().await;
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!(
        (seen.end.kind(), stats.skipped),
        (EndKind::Failed, 1),
        "{what}"
    );
}

fn with_status(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(""));
    *response.status_mut() = StatusCode::from_u16(status).expect("it has three digits");
    response
}

#[tokio::test]
async fn an_informational_status_over_http1() {
    for status in [100, 102, 103, 150, 199] {
        let server = serve(move || with_status(status)).await;
        let mut client = Raw::connect(server.address).await;
        client.get("/").await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 500 "), "{status}: {head}");
        assert_failed(&server, &format!("{status} over HTTP/1.1")).await;
    }
}

#[tokio::test]
async fn an_informational_status_over_http2() {
    for status in [101, 100, 102, 103, 150, 199] {
        let server = serve(move || with_status(status)).await;
        let mut client = Multiplexed::connect(&server).await;
        let (response, _stream) = client.send(Method::GET, "/").await;
        let answer = soon(response).await;
        assert!(
            answer.is_err(),
            "the client should take no answer of status {status}: {answer:?}"
        );
        assert_failed(&server, &format!("{status} over HTTP/2")).await;
    }
}

#[tokio::test]
async fn a_length_that_is_no_number_over_http2() {
    for length in ["ten", "1e1", "+5", "-5", "5 5", ""] {
        let server = serve(move || {
            let body = Script::new([Step::data("hello")]);
            Response::builder()
                .header(CONTENT_LENGTH, length)
                .body(body)
                .expect("the header is valid")
        })
        .await;
        let mut client = Multiplexed::connect(&server).await;
        let (response, _stream) = client.send(Method::GET, "/").await;
        let answer = async {
            let (_, mut body) = soon(response).await?.into_parts();
            rest(&mut body).await
        };
        assert!(
            answer.await.is_err(),
            "the client should take no answer of length {length:?}"
        );
        assert_failed(&server, &format!("length {length:?} over HTTP/2")).await;
    }
}

/// A response with this version and ten declared bytes. Its body does not end by itself.
fn of_ten_bytes(version: Version) -> Response<Script> {
    let body = Script::new([Step::data("0123456789"), Step::Hang]);
    Response::builder()
        .version(version)
        .header(CONTENT_LENGTH, 10)
        .body(body)
        .expect("the header is valid")
}

/// The end that a service's response has when it is dropped after its first frame.
async fn end_after_first_frame(request: Version, response: Version) -> (EndKind, u64) {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        |request: Request<()>| {
            let tasks = request.background_tasks().expect("the layer is there");
            tasks.add(Task::new(async {}).named("complete").when(When::Complete));
            witness.watch(&tasks);
            ready(Ok::<_, Infallible>(of_ten_bytes(response)))
        },
    ));
    let request = Request::builder()
        .version(request)
        .body(())
        .expect("the request is valid");
    let Ok(response) = service.oneshot(request).await;
    let mut body = response.into_body();
    body.frame()
        .await
        .expect("there is a frame")
        .expect("the body does not fail");
    drop(body);
    let end = witness.next().await.end;
    soon(supervisor.idle()).await;
    (end.kind(), supervisor.stats().succeeded - 1)
}

#[tokio::test]
async fn the_version_of_the_request_counts() {
    let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
    // The versions of the request and of the response. HTTP/1 is complete with the declared bytes,
    // HTTP/2 with the end of the body.
    assert_eq!(
        end_after_first_frame(http1, http1).await,
        (EndKind::Complete, 1)
    );
    assert_eq!(
        end_after_first_frame(http1, http2).await,
        (EndKind::Complete, 1)
    );
    assert_eq!(
        end_after_first_frame(http2, http1).await,
        (EndKind::Interrupted, 0)
    );
    assert_eq!(
        end_after_first_frame(http2, http2).await,
        (EndKind::Interrupted, 0)
    );
}

#[tokio::test]
async fn a_response_that_says_http2_over_http1() {
    let server = serve(|| of_ten_bytes(Version::HTTP_2)).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("0123456789").await;
    drop(client);
    let seen = server.witness.next().await;
    soon(server.supervisor.idle()).await;
    assert_eq!(
        (seen.cell().as_str(), server.supervisor.stats().succeeded),
        ("Complete, 10 B", 2)
    );
}
