//! Other people's layers around ours and below it, and what axum's own server does, over HTTP/1.1 and HTTP/2.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::{any, get},
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{
    Request, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING},
};
use hyper::body::Incoming;
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
};
use tokio_tungstenite::tungstenite;
use tower::{Service, ServiceBuilder, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, BoxError, Supervisor};
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer, timeout::TimeoutLayer};

use crate::{
    support::{Script, Server, Step, Witness, soon},
    table::check,
};

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

/// Asks for `/`, with leave to compress the answer.
async fn ask(server: &Server, protocol: Protocol) -> reqwest::Result<reqwest::Response> {
    let builder = reqwest::Client::builder().no_proxy();
    let client = match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_prior_knowledge(),
    };
    let client = client.build().expect("a client needs nothing");
    soon(client.get(format!("http://{}/", server.address)).header(ACCEPT_ENCODING, "gzip").send()).await
}

async fn body(response: reqwest::Response) -> reqwest::Result<Bytes> {
    soon(response.bytes()).await
}

/// What stands in a server with its figures and its witness, to be put together in the order that a test is about.
struct Parts {
    supervisor: Supervisor,
    witness: Witness,
    layer: BackgroundLayer,
}

impl Parts {
    fn new() -> Self {
        let supervisor = Supervisor::new();
        Self { layer: BackgroundLayer::with(supervisor.clone()), supervisor, witness: Witness::new() }
    }

    async fn serve<S, B>(self, service: S) -> Server
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Server::serve(service, self.supervisor, self.witness).await
    }

    /// A service that answers with these steps, and leaves a witness.
    fn answers<B>(
        &self,
        steps: fn() -> Vec<Step>,
    ) -> impl Service<
        Request<B>,
        Response = Response<Script>,
        Error = Infallible,
        Future = impl Future<Output = Result<Response<Script>, Infallible>> + Send + use<B>,
    > + Clone
    + Send
    + use<B> {
        let witness = self.witness.clone();
        service_fn(move |request: Request<B>| {
            let course = witness.watch(&request.background_tasks().expect("the layer is there"));
            std::future::ready(Ok(Response::new(Script::new(steps()).seen_by(course.expect_body()))))
        })
    }
}

/// Checks that this is gzip of so many bytes: its last four tell.
fn assert_gzip_of(length: u32, compressed: &[u8]) {
    assert_eq!(compressed[..2], [0x1f, 0x8b]);
    assert_eq!(compressed[compressed.len() - 4..], length.to_le_bytes());
}

fn large() -> Vec<Step> {
    vec![Step::data(vec![b'a'; 40_000]), Step::data(vec![b'b'; 30_000])]
}

/// Gzip of six different letters is a head of 10 bytes, one block of fixed codes (3 bits, 8 for each letter, 7 for the end, so
/// 8 bytes), and a checksum and a length of 4 bytes each.
fn letters() -> Vec<Step> {
    vec![Step::data("abcdef")]
}

async fn compressed_outside(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let service = ServiceBuilder::new().layer(CompressionLayer::new()).layer(parts.layer.clone()).service(parts.answers(large));
    let server = parts.serve(service).await;
    let response = ask(&server, protocol).await.expect("it answers");
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    assert_gzip_of(70_000, &body(response).await.expect("a whole body"));
    server
}

#[tokio::test]
async fn compression_outside() {
    let server = compressed_outside(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "compression outside").await;
    let server = compressed_outside(Protocol::Http2).await;
    check(&server, "HTTP/2", "compression outside").await;
}

async fn compressed_inside(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let service = ServiceBuilder::new().layer(parts.layer.clone()).layer(CompressionLayer::new()).service(parts.answers(letters));
    let server = parts.serve(service).await;
    let response = ask(&server, protocol).await.expect("it answers");
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let body = body(response).await.expect("a whole body");
    assert_gzip_of(6, &body);
    assert_eq!(body.len(), 26);
    server
}

#[tokio::test]
async fn compression_inside() {
    let server = compressed_inside(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "compression inside").await;
    let server = compressed_inside(Protocol::Http2).await;
    check(&server, "HTTP/2", "compression inside").await;
}

/// A service that never answers, and leaves a witness.
fn hangs<B: Send>(
    witness: Witness,
) -> impl Service<
    Request<B>,
    Response = Response<Script>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Script>, Infallible>> + Send + use<B>,
> + Clone
+ Send
+ use<B> {
    service_fn(move |request: Request<B>| {
        witness.watch(&request.background_tasks().expect("the layer is there"));
        pending()
    })
}

const SHORT: Duration = Duration::from_millis(10);

async fn timed_out(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let timeout = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, SHORT);
    let service = ServiceBuilder::new().layer(timeout).layer(parts.layer.clone()).service(hangs(parts.witness.clone()));
    let server = parts.serve(service).await;
    assert_eq!(ask(&server, protocol).await.expect("it answers").status(), StatusCode::SERVICE_UNAVAILABLE);
    server
}

#[tokio::test]
async fn outer_timeout() {
    let server = timed_out(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "outer timeout").await;
    let server = timed_out(Protocol::Http2).await;
    check(&server, "HTTP/2", "outer timeout").await;
}

/// tower's own timeout is an error of the service, which hyper answers by closing the connection or resetting the stream.
async fn timed_out_by_error(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let service = ServiceBuilder::new().timeout(SHORT).layer(parts.layer.clone()).service(hangs(parts.witness.clone()));
    let server = parts.serve(service).await;
    ask(&server, protocol).await.expect_err("there is no answer");
    server
}

#[tokio::test]
async fn outer_timeout_by_error() {
    let server = timed_out_by_error(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "outer timeout").await;
    let server = timed_out_by_error(Protocol::Http2).await;
    check(&server, "HTTP/2", "outer timeout").await;
}

/// Panics in its future, after it has left a witness.
async fn panics<B>(witness: Witness, request: Request<B>) -> Result<Response<Script>, Infallible> {
    witness.watch(&request.background_tasks().expect("the layer is there"));
    tokio::task::yield_now().await;
    panic!("the handler panics")
}

async fn assert_caught(server: &Server, protocol: Protocol) {
    let response = ask(server, protocol).await.expect("it answers");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(body(response).await.expect("a whole body"), "Service panicked");
}

async fn caught_outside(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let witness = parts.witness.clone();
    let service = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(parts.layer.clone())
        .service_fn(move |request: Request<Incoming>| panics(witness.clone(), request));
    let server = parts.serve(service).await;
    assert_caught(&server, protocol).await;
    server
}

#[tokio::test]
async fn panic_under_catch_panic() {
    let server = caught_outside(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "panic under `CatchPanic`").await;
    let server = caught_outside(Protocol::Http2).await;
    check(&server, "HTTP/2", "panic under `CatchPanic`").await;
}

/// What our layer sees of a panic that was caught below it is a response of status 500.
async fn caught_inside(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let witness = parts.witness.clone();
    let service = ServiceBuilder::new()
        .layer(parts.layer.clone())
        .layer(CatchPanicLayer::new())
        .service_fn(move |request: Request<Incoming>| panics(witness.clone(), request));
    let server = parts.serve(service).await;
    assert_caught(&server, protocol).await;
    server
}

#[tokio::test]
async fn panic_under_catch_panic_inside() {
    let server = caught_inside(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "panic under `CatchPanic` inside").await;
    let server = caught_inside(Protocol::Http2).await;
    check(&server, "HTTP/2", "panic under `CatchPanic` inside").await;
}

fn bad() -> Vec<Step> {
    vec![Step::data("bad"), Step::Panic]
}

/// `CatchPanic` catches panics of services, not of bodies: the client gets a broken response, wherever it stands.
async fn assert_broken(server: &Server, protocol: Protocol) {
    match ask(server, protocol).await {
        Ok(response) => {
            assert_eq!(response.status(), StatusCode::OK);
            body(response).await.expect_err("the body breaks off");
        }
        // The panic can overtake the head, which then lies in a buffer of the connection that it takes down.
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
}

async fn body_panics(protocol: Protocol) -> [Server; 2] {
    let outside = Parts::new();
    let service = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(outside.layer.clone()).service(outside.answers(bad));
    let outside = outside.serve(service).await;
    let inside = Parts::new();
    let service = ServiceBuilder::new().layer(inside.layer.clone()).layer(CatchPanicLayer::new()).service(inside.answers(bad));
    let inside = inside.serve(service).await;
    assert_broken(&outside, protocol).await;
    assert_broken(&inside, protocol).await;
    [outside, inside]
}

#[tokio::test]
async fn panic_in_the_body_under_catch_panic() {
    for server in body_panics(Protocol::Http1).await {
        check(&server, "HTTP/1.1", "panic in the body under `CatchPanic`").await;
    }
    for server in body_panics(Protocol::Http2).await {
        check(&server, "HTTP/2", "panic in the body under `CatchPanic`").await;
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) {
            socket.send(message).await.expect("the client reads");
        }
    }
}

/// The response to an upgrade is over at the upgrade, long before the socket is.
#[tokio::test]
async fn websocket_upgrade() {
    let parts = Parts::new();
    let witness = parts.witness.clone();
    let upgrade = async move |tasks: BackgroundTasks, upgrade: WebSocketUpgrade| {
        witness.watch(&tasks);
        upgrade.on_upgrade(echo)
    };
    let router = Router::new().route("/", any(upgrade)).layer(parts.layer.clone());
    let server = parts.serve(router).await;

    let connect = tokio_tungstenite::connect_async(format!("ws://{}/", server.address));
    let (mut socket, response) = soon(connect).await.expect("it upgrades");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    check(&server, "HTTP/1.1", "websocket upgrade").await;

    for word in ["still", "there"] {
        soon(socket.send(tungstenite::Message::text(word))).await.expect("the socket works");
        let echo = soon(socket.next()).await.expect("the socket is open").expect("the socket works");
        assert_eq!(echo.into_text().expect("a text").as_str(), word);
    }
    soon(socket.close(None)).await.expect("the socket closes");
    assert_eq!(server.supervisor.stats().added(), 1);
}

/// A server that is told to stop while it sends a body. Its body goes on once the server does not accept any more.
async fn shut_down(protocol: Protocol) -> Server {
    let parts = Parts::new();
    let witness = parts.witness.clone();
    let gate = Arc::new(Notify::new());
    let opened = gate.clone();
    let handler = async move |tasks: BackgroundTasks| {
        let steps = [Step::data("one"), Step::Wait(opened.clone()), Step::data("two")];
        Body::new(Script::new(steps).seen_by(witness.watch(&tasks).expect_body()))
    };
    let router = Router::new().route("/", get(handler)).layer(parts.layer.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let (report, down) = oneshot::channel();
    let accept = tokio::spawn(async move {
        let signal = async { stopped.await.expect("the test tells it to stop") };
        axum::serve(listener, router).with_graceful_shutdown(signal).await.expect("it serves");
        report.send(()).expect("the test waits");
    });
    let server = Server::running(address, accept, parts.supervisor, parts.witness);

    let mut response = ask(&server, protocol).await.expect("it answers");
    assert_eq!(soon(response.chunk()).await.expect("a good chunk").expect("a chunk"), "one");
    stop.send(()).expect("the server runs");
    // The server drops its listener when it begins to shut down.
    soon(async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.added(), stats.collected), (1, 1), "{stats:?}");

    gate.notify_one();
    assert_eq!(body(response).await.expect("a whole body"), "two");
    soon(down).await.expect("the server comes to its end");
    server
}

#[tokio::test]
async fn graceful_shutdown_mid_body() {
    let server = shut_down(Protocol::Http1).await;
    check(&server, "HTTP/1.1", "graceful shutdown mid-body").await;
    let server = shut_down(Protocol::Http2).await;
    check(&server, "HTTP/2", "graceful shutdown mid-body").await;
}
