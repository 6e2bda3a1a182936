//! No task starts before the socket took the last byte of its response: lengths, streams, trailers,
//! heads without a body, resets and clients that stall.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt, service_fn, util::MapResponseLayer};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, EndKind, StartOn, Supervisor,
    middleware::ResponseBody, sent::SentStream,
};

use super::tracked::{assert_ends, assert_waits, last_byte, serve_tracked, until_deferred};
use crate::common::{
    Multiplexed, Raw, Script, Server, Step, Witness, next_data, rest, settle, soon, unreleased_data,
};

const LARGE: usize = 16 << 20;

fn body(path: &str) -> Script {
    let large = || Step::data(vec![b'.'; LARGE]);
    let short = || Step::data("hello");
    match path {
        "/full" => Script::new([large()]).sized(LARGE as u64).tells_end(),
        "/stream" => Script::new([large()]),
        "/trailers" => Script::new([large(), Step::trailer("grpc-status", "0")]),
        "/short" => Script::new([short()]).tells_end(),
        "/short-stream" | "/204-body" => Script::new([short()]),
        "/short-trailers" => Script::new([short(), Step::trailer("grpc-status", "0")]),
        "/empty" | "/204" | "/304" | "/101" => Script::new([]).tells_end(),
        _ => unreachable!("the tests request no other path"),
    }
}

async fn serve(supervisor: Supervisor) -> Server {
    let witness = Witness::new();
    let watching = witness.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            let tasks = request.background_tasks().expect("the layer is there");
            match request.uri().query() {
                Some("sent") => assert!(tasks.set_start_on(StartOn::LastByteSent)),
                Some("end") => assert!(tasks.set_start_on(StartOn::EndOfStream)),
                _ => {}
            }
            watching.watch(&tasks);
            let mut response = Response::new(body(request.uri().path()));
            let status = request
                .uri()
                .path()
                .get(1..4)
                .and_then(|path| path.parse().ok());
            *response.status_mut() = status
                .and_then(|status| StatusCode::from_u16(status).ok())
                .unwrap_or_default();
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                response
                    .headers_mut()
                    .insert("upgrade", HeaderValue::from_static("echo"));
                response
                    .headers_mut()
                    .insert("connection", HeaderValue::from_static("upgrade"));
                tokio::spawn(async move {
                    let upgraded = hyper::upgrade::on(request)
                        .await
                        .expect("the server upgrades");
                    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                    // The client ends the tunnel.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
            std::future::ready(Ok::<_, Infallible>(response))
        },
    ));
    serve_tracked(supervisor, witness, service).await
}

async fn sent() -> Server {
    serve(last_byte()).await
}

#[tokio::test]
async fn http1_tasks_start_early_on_end_of_stream() {
    let server = serve(Supervisor::new()).await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/full").await;
    client.until("\r\n\r\n").await;
    assert_ends(&server, EndKind::Complete).await;
}

#[tokio::test]
async fn http2_tasks_start_early_on_end_of_stream() {
    let server = serve(Supervisor::new()).await;
    let mut client = Multiplexed::with_window(&server, 1).await;
    for path in ["/full", "/stream", "/short", "/short-stream"] {
        let _stalled = client.get(path).await;
        assert_ends(&server, EndKind::Complete).await;
    }
}

#[tokio::test]
async fn http1_tasks_wait_for_a_client_that_stalls() {
    let server = sent().await;
    for path in ["/full", "/stream", "/trailers"] {
        let mut client = Raw::narrow(server.address).await;
        client.get_last(path).await;
        client.until("\r\n\r\n").await;
        assert_waits(&server, path).await;
        assert!(client.rest().await.len() >= LARGE);
        assert_ends(&server, EndKind::Complete).await;
    }
}

#[tokio::test]
async fn http1_clients_that_leave() {
    let server = sent().await;
    for path in ["/full", "/stream", "/trailers"] {
        let mut client = Raw::narrow(server.address).await;
        client.get(path).await;
        client.until("\r\n\r\n").await;
        client.reset();
        assert_ends(&server, EndKind::Interrupted).await;
    }
}

#[tokio::test]
async fn short_responses() {
    let server = sent().await;
    let mut one = Raw::connect(server.address).await;
    let mut many = Multiplexed::connect(&server).await;
    for path in ["/short", "/short-stream", "/empty"] {
        one.get(path).await;
        assert_ends(&server, EndKind::Complete).await;
    }
    for path in ["/short", "/short-stream", "/short-trailers", "/empty"] {
        let mut response = many.get(path).await;
        let (read, trailers) = rest(response.body_mut())
            .await
            .expect("the response is whole");
        assert_eq!(
            (read.len(), trailers.is_some()),
            (
                if path == "/empty" { 0 } else { 5 },
                path == "/short-trailers"
            )
        );
        assert_ends(&server, EndKind::Complete).await;
    }
}

#[tokio::test]
async fn http2_tasks_wait_for_a_client_that_stalls() {
    let server = sent().await;
    for path in [
        "/full",
        "/stream",
        "/trailers",
        "/short",
        "/short-stream",
        "/short-trailers",
    ] {
        let mut client = Multiplexed::with_window(&server, 1).await;
        let mut response = client.get(path).await;
        let mut length = 0;
        // The server may have sent one byte more than was read. The short body has five.
        for _ in 0..3 {
            length += next_data(response.body_mut()).await.len();
            settle().await;
            assert_eq!(
                server.supervisor.stats().deferred,
                1,
                "{path}: after {length} bytes"
            );
        }
        client.set_window(1 << 24);
        rest(response.body_mut())
            .await
            .expect("the response is whole");
        assert_ends(&server, EndKind::Complete).await;
    }
}

#[tokio::test]
async fn http2_clients_that_reset_or_leave() {
    let server = sent().await;
    // Without a window the task of the stream has the data, with one the task of the connection.
    for window in [0, 1] {
        for path in ["/full", "/stream", "/trailers", "/short"] {
            for leave in [false, true] {
                let mut client = Multiplexed::with_window(&server, window).await;
                let (response, mut stream) = client.send(Method::GET, path).await;
                let _response = soon(response).await.expect("there is a head");
                settle().await;
                assert_eq!(
                    server.supervisor.stats().deferred,
                    1,
                    "{path}, window of {window}"
                );
                if leave {
                    client.leave().await;
                } else {
                    stream.send_reset(h2::Reason::CANCEL);
                }
                assert_ends(&server, EndKind::Interrupted).await;
            }
        }
    }
}

#[tokio::test]
async fn http2_with_a_window_that_opens_byte_by_byte() {
    let server = sent().await;
    for path in ["/short", "/short-stream", "/short-trailers"] {
        let mut client = Multiplexed::with_window(&server, 0).await;
        let mut response = client.get(path).await;
        for window in 1..=5 {
            settle().await;
            assert_eq!(
                server.supervisor.stats().deferred,
                1,
                "{path}, window of {window}"
            );
            client.set_window(window);
            assert_eq!(unreleased_data(response.body_mut()).await.len(), 1);
        }
        assert_ends(&server, EndKind::Complete).await;
    }
}

/// Returns an HTTP/2 frame for a stream.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [.., high, low] = payload.len().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Requests these paths by a client that has large windows and reads nothing, so that frames are
/// stuck in the server.
async fn stuck(server: &Server, paths: &[&str]) -> Raw {
    let mut client = Raw::narrow(server.address).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client
        .send(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]))
        .await;
    client.send(frame(8, 0, 0, &[0x7f, 0xff, 0, 0])).await;
    for (path, stream) in paths.iter().zip([1, 3, 5]) {
        let path = [
            &[
                0x82,
                0x86,
                0x44,
                path.len().try_into().expect("it is short"),
            ],
            path.as_bytes(),
        ]
        .concat();
        client
            .send(frame(
                1,
                5,
                stream,
                &[&path, &b"\x41\x09localhost"[..]].concat(),
            ))
            .await;
    }
    until_deferred(server, paths.len() as u64).await;
    settle().await;
    client
}

#[tokio::test]
async fn http2_resets_of_data_that_is_stuck_in_the_socket() {
    let server = sent().await;
    for path in ["/full", "/stream", "/trailers"] {
        // In the second case the server must answer a ping, and has no space to write the answer.
        for before in [vec![], frame(6, 0, 0, &[0; 8])] {
            let mut client = stuck(&server, &[path]).await;
            client
                .send([before, frame(3, 0, 1, &[0, 0, 0, 8])].concat())
                .await;
            let reading = tokio::spawn(async move { client.bytes().await });
            let end = server.witness.next().await.end;
            assert_eq!(end.kind(), EndKind::Interrupted, "{path}: {end:?}");
            reading.abort();
        }
    }
}

#[tokio::test]
async fn responses_without_a_body() {
    let server = sent().await;
    let mut many = Multiplexed::connect(&server).await;
    for (path, end) in [
        ("/204", EndKind::Complete),
        ("/304", EndKind::Complete),
        ("/204-body", EndKind::Failed),
    ] {
        let mut one = Raw::connect(server.address).await;
        one.get(path).await;
        one.until("\r\n\r\n").await;
        assert_ends(&server, EndKind::Complete).await;
        // Over HTTP/2 the server sends a body that must not be there.
        let mut response = many.get(path).await;
        let (read, _) = rest(response.body_mut())
            .await
            .expect("this client accepts it");
        assert_eq!(
            read.is_empty(),
            end == EndKind::Complete,
            "{path}: {read:?}"
        );
        assert_ends(&server, end).await;
    }
    let mut one = Raw::connect(server.address).await;
    one.send("HEAD /full HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    one.until("\r\n\r\n").await;
    assert_ends(&server, EndKind::Complete).await;
    let (response, _) = many.send(Method::HEAD, "/empty").await;
    soon(response).await.expect("there is a head");
    assert_ends(&server, EndKind::Complete).await;
}

#[tokio::test]
async fn an_upgrade_is_complete_when_its_head_was_sent() {
    let server = sent().await;
    let mut client = Raw::connect(server.address).await;
    client
        .send(
            "GET /101 HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        )
        .await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    assert_ends(&server, EndKind::Complete).await;
    client.send("hello").await;
    client.until("hello").await;
}

#[tokio::test]
async fn a_request_can_choose_when_its_tasks_start() {
    let server = serve(Supervisor::new()).await;
    let mut client = Raw::narrow(server.address).await;
    client.get_last("/full?sent").await;
    client.until("\r\n\r\n").await;
    settle().await;
    assert_eq!(server.supervisor.stats().deferred, 1);
    client.rest().await;
    assert_ends(&server, EndKind::Complete).await;

    let server = sent().await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/full?end").await;
    client.until("\r\n\r\n").await;
    assert_ends(&server, EndKind::Complete).await;
}

type Late = ResponseBody<Full<VecDeque<u8>>>;

/// A body that the test gets when the server drops it.
struct Kept {
    body: Option<Late>,
    keeper: mpsc::UnboundedSender<Late>,
}

impl Body for Kept {
    type Data = VecDeque<u8>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        Pin::new(
            self.body
                .as_mut()
                .expect("the body is there until the drop"),
        )
        .poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_some_and(Body::is_end_stream)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.body
            .take()
            .into_iter()
            .for_each(|body| self.keeper.send(body).expect("the test is there"));
    }
}

/// The data can have no guard, and the connection is idle when the body is dropped.
#[tokio::test]
async fn a_body_that_is_kept_longer_than_its_stream() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let (keeper, mut kept) = mpsc::unbounded_channel();
    let watching = witness.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(
                VecDeque::from(*b"hello"),
            ))))
        },
    ));
    let keeping = move |response: Response<Late>| {
        let keeper = keeper.clone();
        response.map(|body| Kept {
            body: Some(body),
            keeper,
        })
    };
    let service = MapResponseLayer::new(keeping).layer(service);
    let server = serve_tracked(supervisor, witness, service).await;

    let mut client = Multiplexed::connect(&server).await;
    let mut response = client.get("/").await;
    assert_eq!(
        rest(response.body_mut())
            .await
            .expect("the response is whole")
            .0,
        b"hello"
    );
    let body = soon(kept.recv()).await.expect("the server drops it");
    settle().await;
    assert_eq!(server.supervisor.stats().deferred, 1);
    drop(body);
    assert_ends(&server, EndKind::Complete).await;
}

/// Without a guard the tasks start no earlier than on `EndOfStream`, but that can be before the
/// last byte.
#[tokio::test]
async fn http2_data_that_can_have_no_guard() {
    for start_on in [StartOn::EndOfStream, StartOn::LastByteSent] {
        let (supervisor, witness) = (
            Supervisor::builder().start_on(start_on).build(),
            Witness::new(),
        );
        let watching = witness.clone();
        let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
            move |request: Request<Incoming>| {
                watching.watch(&request.background_tasks().expect("the layer is there"));
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(
                    VecDeque::from(*b"hello"),
                ))))
            },
        ));
        let server = serve_tracked(supervisor, witness, service).await;
        let mut client = Multiplexed::with_window(&server, 0).await;
        let mut response = client.get("/").await;
        settle().await;
        assert_eq!(
            server.supervisor.stats().deferred,
            1,
            "{start_on:?}: the server has the body"
        );
        // The server queues all of the data when it may send some of it.
        client.set_window(1);
        assert_ends(&server, EndKind::Complete).await;
        client.set_window(5);
        assert_eq!(
            rest(response.body_mut())
                .await
                .expect("the response is whole")
                .0,
            b"hello"
        );
    }
}

#[tokio::test]
async fn start_within_does_not_wait_for_a_stalled_client() {
    let supervisor = Supervisor::builder()
        .start_on(StartOn::LastByteSent)
        .start_within(Duration::from_millis(20))
        .build();
    let server = serve(supervisor).await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/full").await;
    assert_ends(&server, EndKind::Unfinished).await;
}

/// What adds a task.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Adds {
    Handler,
    Body,
    Nothing,
}

#[tokio::test]
async fn a_response_waits_for_its_last_byte_if_it_leaves_a_task() {
    for adds in [Adds::Handler, Adds::Body, Adds::Nothing] {
        let supervisor = last_byte();
        let service = service_fn(move |request: Request<()>| {
            if adds == Adds::Handler {
                let tasks = request.background_tasks().expect("the layer is there");
                tasks.add(async {});
            }
            let body = StreamBody::new(futures_util::stream::once(async move {
                if adds == Adds::Body {
                    tower_background::defer(async {}).expect("the body is of a request");
                }
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"hello")))
            }));
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let (stream, _client) = tokio::io::duplex(64);
        let stream = SentStream::new(stream);
        let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service);
        let service = stream.connection().layer(service);
        let response = service.oneshot(Request::new(())).await;
        let body = response.expect("the service answers").into_body();
        body.collect().await.expect("the body is whole");
        let open = usize::from(adds != Adds::Nothing);
        assert_eq!(supervisor.open_responses(), open, "{adds:?}");
        // The connection dies before a flush.
        drop(stream);
        assert_eq!(supervisor.open_responses(), 0, "{adds:?}");
    }
}

#[tokio::test]
async fn the_last_byte_is_chosen_before_there_is_a_head() {
    let service = BackgroundLayer::with_supervisor(Supervisor::new()).layer(service_fn(
        |request: Request<()>| {
            let tasks = request.background_tasks().expect("the layer is there");
            assert!(tasks.set_start_on(StartOn::LastByteSent));
            assert!(tasks.set_start_on(StartOn::EndOfStream));
            tasks.add(async {});
            let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
            response.extensions_mut().insert(tasks);
            std::future::ready(Ok::<_, Infallible>(response))
        },
    ));
    let response = service.oneshot(Request::new(())).await;
    let response = response.expect("the service answers");
    let tasks = response.extensions().get::<BackgroundTasks>();
    let tasks = tasks.expect("the handler left it").clone();
    assert!(!tasks.set_start_on(StartOn::LastByteSent));
    assert!(tasks.set_start_on(StartOn::EndOfStream));
    drop(response);
    assert!(
        !tasks.set_start_on(StartOn::EndOfStream),
        "they have started"
    );
}
