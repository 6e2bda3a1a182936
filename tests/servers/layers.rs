//! How responses end with layers of other crates around this layer and inside it, and with axum's
//! own server.

use std::{
    convert::Infallible,
    future::{Ready, pending, ready},
    sync::Arc,
    time::Duration,
};

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
use tokio::{net::TcpStream, sync::Notify, task::yield_now};
use tokio_tungstenite::tungstenite;
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Supervisor};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, timeout::TimeoutLayer,
};

use crate::{
    common::{Course, Script, Servable, Server, Step, Witness, chunk, soon},
    table::check,
};

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

/// Checks the row of a case. Each protocol gets its own server, from `serve`.
async fn check_both(case: &'static str, serve: impl AsyncFn(Protocol) -> Server) {
    for (protocol, name) in [(Protocol::Http1, "HTTP/1.1"), (Protocol::Http2, "HTTP/2")] {
        check(&serve(protocol).await, name, case).await;
    }
}

/// Requests `/`, and accepts a compressed response.
async fn ask(server: &Server, protocol: Protocol) -> reqwest::Result<reqwest::Response> {
    let builder = reqwest::Client::builder().no_proxy();
    let client = match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_prior_knowledge(),
    };
    let client = client.build().expect("a client needs nothing");
    soon(
        client
            .get(format!("http://{}/", server.address))
            .header(ACCEPT_ENCODING, "gzip")
            .send(),
    )
    .await
}

async fn body(response: reqwest::Response) -> reqwest::Result<Bytes> {
    soon(response.bytes()).await
}

/// What a server consists of. Each test puts the parts together in another order.
struct Parts {
    supervisor: Supervisor,
    witness: Witness,
    layer: BackgroundLayer,
}

impl Parts {
    fn new() -> Self {
        let supervisor = Supervisor::new();
        Self {
            layer: BackgroundLayer::with_supervisor(supervisor.clone()),
            supervisor,
            witness: Witness::new(),
        }
    }

    async fn serve(self, service: impl Servable) -> Server {
        Server::serve(service, self.supervisor, self.witness).await
    }

    /// Returns a service that leaves a witness, and then does what `answer` says.
    fn service<F, Fut>(
        &self,
        answer: F,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Script>,
        Error = Infallible,
        Future = Fut,
    > + Clone
    + Send
    + use<F, Fut>
    where
        F: Fn(Course) -> Fut + Clone + Send,
        Fut: Future<Output = Result<Response<Script>, Infallible>> + Send,
    {
        let witness = self.witness.clone();
        service_fn(move |request: Request<Incoming>| {
            answer(witness.watch(&request.background_tasks().expect("the layer is there")))
        })
    }
}

/// Answers with a body that takes these steps.
fn steps<const N: usize>(
    steps: fn() -> [Step; N],
) -> impl Fn(Course) -> Ready<Result<Response<Script>, Infallible>> + Clone + Send {
    move |course| {
        ready(Ok(Response::new(
            Script::new(steps()).seen_by(course.expect_body()),
        )))
    }
}

/// Requests, and checks that the response is gzip of so many bytes: its last four bytes tell.
async fn ask_for_gzip(server: &Server, protocol: Protocol, length: u32) -> Bytes {
    let response = ask(server, protocol).await.expect("it answers");
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let compressed = body(response).await.expect("a whole body");
    assert_eq!(compressed[..2], [0x1f, 0x8b]);
    assert_eq!(compressed[compressed.len() - 4..], length.to_le_bytes());
    compressed
}

#[tokio::test]
async fn compression_outside() {
    check_both("compression outside", async |protocol| {
        let parts = Parts::new();
        let large = parts.service(steps(|| {
            [
                Step::data(vec![b'a'; 40_000]),
                Step::data(vec![b'b'; 30_000]),
            ]
        }));
        let service = CompressionLayer::new().layer(parts.layer.layer(large));
        let server = parts.serve(service).await;
        ask_for_gzip(&server, protocol, 70_000).await;
        server
    })
    .await;
}

/// Gzip of six different letters has 26 bytes: 10 bytes of head, 8 bytes for a block of fixed codes
/// (3 bits, 8 for each letter, 7 for the end), and 4 bytes each for checksum and length.
#[tokio::test]
async fn compression_inside() {
    check_both("compression inside", async |protocol| {
        let parts = Parts::new();
        let letters = parts.service(steps(|| [Step::data("abcdef")]));
        let service = parts.layer.layer(CompressionLayer::new().layer(letters));
        let server = parts.serve(service).await;
        assert_eq!(ask_for_gzip(&server, protocol, 6).await.len(), 26);
        server
    })
    .await;
}

const SHORT: Duration = Duration::from_millis(10);

#[tokio::test]
async fn outer_timeout() {
    check_both("outer timeout", async |protocol| {
        let parts = Parts::new();
        let hangs = parts.service(|_| pending());
        let timeout = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, SHORT);
        let service = timeout.layer(parts.layer.layer(hangs));
        let server = parts.serve(service).await;
        assert_eq!(
            ask(&server, protocol).await.expect("it answers").status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        server
    })
    .await;
}

/// tower's own timeout is an error of the service. hyper then closes the connection or resets the
/// stream.
#[tokio::test]
async fn outer_timeout_by_error() {
    check_both("outer timeout", async |protocol| {
        let parts = Parts::new();
        let hangs = parts.service(|_| pending());
        let service = tower::timeout::TimeoutLayer::new(SHORT).layer(parts.layer.layer(hangs));
        let server = parts.serve(service).await;
        ask(&server, protocol)
            .await
            .expect_err("there is no answer");
        server
    })
    .await;
}

/// Panics in its future.
async fn panics(_: Course) -> Result<Response<Script>, Infallible> {
    yield_now().await;
    panic!("the handler panics")
}

async fn assert_caught(server: &Server, protocol: Protocol) {
    let response = ask(server, protocol).await.expect("it answers");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        body(response).await.expect("a whole body"),
        "Service panicked"
    );
}

#[tokio::test]
async fn panic_under_catch_panic() {
    check_both("panic under `CatchPanic`", async |protocol| {
        let parts = Parts::new();
        let panics = parts.service(panics);
        let service = CatchPanicLayer::new().layer(parts.layer.layer(panics));
        let server = parts.serve(service).await;
        assert_caught(&server, protocol).await;
        server
    })
    .await;
}

/// Our layer sees a panic that was caught below it as a response of status 500.
#[tokio::test]
async fn panic_under_catch_panic_inside() {
    check_both("panic under `CatchPanic` inside", async |protocol| {
        let parts = Parts::new();
        let panics = parts.service(panics);
        let service = parts.layer.layer(CatchPanicLayer::new().layer(panics));
        let server = parts.serve(service).await;
        assert_caught(&server, protocol).await;
        server
    })
    .await;
}

/// `CatchPanic` catches panics of services, not of bodies. So the client gets a broken response,
/// whichever layer is outside.
#[tokio::test]
async fn panic_in_the_body_under_catch_panic() {
    for is_outside in [true, false] {
        check_both("panic in the body under `CatchPanic`", async |protocol| {
            let parts = Parts::new();
            let bad = parts.service(steps(|| [Step::data("bad"), Step::Panic]));
            let server = if is_outside {
                let service = CatchPanicLayer::new().layer(parts.layer.layer(bad));
                parts.serve(service).await
            } else {
                let service = parts.layer.layer(CatchPanicLayer::new().layer(bad));
                parts.serve(service).await
            };
            match ask(&server, protocol).await {
                Ok(response) => {
                    assert_eq!(response.status(), StatusCode::OK);
                    body(response).await.expect_err("the body breaks off");
                }
                // The panic can end the connection before the head is written.
                Err(error) => assert!(error.is_request(), "{error:?}"),
            }
            server
        })
        .await;
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) {
            socket.send(message).await.expect("the client reads");
        }
    }
}

/// The response to an upgrade is over at the upgrade, long before the socket closes.
#[tokio::test]
async fn websocket_upgrade() {
    let parts = Parts::new();
    let witness = parts.witness.clone();
    let upgrade = async move |tasks: BackgroundTasks, upgrade: WebSocketUpgrade| {
        witness.watch(&tasks);
        upgrade.on_upgrade(echo)
    };
    let router = Router::new()
        .route("/", any(upgrade))
        .layer(parts.layer.clone());
    let server = parts.serve(router).await;

    let connect = tokio_tungstenite::connect_async(format!("ws://{}/", server.address));
    let (mut socket, response) = soon(connect).await.expect("it upgrades");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    check(&server, "HTTP/1.1", "websocket upgrade").await;

    for word in ["still", "there"] {
        soon(socket.send(tungstenite::Message::text(word)))
            .await
            .expect("the socket works");
        let echo = soon(socket.next())
            .await
            .expect("the socket is open")
            .expect("the socket works");
        assert_eq!(echo.into_text().expect("a text").as_str(), word);
    }
    soon(socket.close(None)).await.expect("the socket closes");
    assert_eq!(server.supervisor.stats().added(), 1);
}

/// A server that shuts down while it sends a body finishes the body, and only then ends.
#[tokio::test]
async fn graceful_shutdown_mid_body() {
    check_both("graceful shutdown mid-body", async |protocol| {
        let Parts {
            supervisor,
            witness,
            layer,
        } = Parts::new();
        let shutting_down = Arc::new(Notify::new());
        let (watching, wait) = (witness.clone(), Arc::clone(&shutting_down));
        let handler = async move |tasks: BackgroundTasks| {
            let steps = [
                Step::data("one"),
                Step::Wait(Arc::clone(&wait)),
                Step::data("two"),
            ];
            Body::new(Script::new(steps).seen_by(watching.watch(&tasks).expect_body()))
        };
        let router = Router::new().route("/", get(handler)).layer(layer);
        let mut server = Server::axum(router, supervisor, witness).await;
        let (address, supervisor) = (server.address, server.supervisor.clone());

        let mut response = ask(&server, protocol).await.expect("it answers");
        assert_eq!(chunk(&mut response).await, "one");
        let finish = async {
            // The server drops its listener when it begins to shut down.
            soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
            let stats = supervisor.stats();
            assert_eq!((stats.added(), stats.deferred), (1, 1), "{stats:?}");
            shutting_down.notify_one();
            assert_eq!(body(response).await.expect("a whole body"), "two");
        };
        tokio::join!(server.shut_down(), finish);
        server
    })
    .await;
}
