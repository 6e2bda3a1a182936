//! HTTP/2: the layer changes no byte that a server writes. A client without an HTTP/2 library sends
//! the same bytes to a service with and without the layer, and compares the answers.

use std::convert::Infallible;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt};

use crate::common::{Script, Step, soon};

/// What a client says first: that it speaks HTTP/2, and that all windows are 16 MiB.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \0\0\x06\x04\0\0\0\0\0\0\x04\x01\0\0\0\
    \0\0\x04\x08\0\0\0\0\0\x01\0\0\0";
/// The head and end of a request on stream 1: `http`, `/`, the method, `localhost`.
const GET: &[u8] = b"\0\0\x0e\x01\x05\0\0\0\x01\x86\x84\x82\x01\x09localhost";
const HEAD: &[u8] = b"\0\0\x13\x01\x05\0\0\0\x01\x86\x84\x02\x04HEAD\x01\x09localhost";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// What the server writes until the stream is over, and a line about each frame of the stream.
async fn written<S, B>(service: S, request: &[u8]) -> (Vec<u8>, Vec<String>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut client = TcpStream::connect(listener.local_addr().expect("it is bound"))
        .await
        .expect("it listens");
    let (stream, _) = listener.accept().await.expect("the client is there");
    let server = tokio::spawn(
        http2::Builder::new(TokioExecutor::new())
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)),
    );
    client
        .write_all(&[PREFACE, request].concat())
        .await
        .expect("the server reads");
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    loop {
        let mut head = [0; 9];
        soon(client.read_exact(&mut head))
            .await
            .expect("the server writes");
        let mut fields = &head[..];
        let (length, kind, flags, stream) = (
            fields.get_uint(3),
            fields.get_u8(),
            fields.get_u8(),
            fields.get_u32(),
        );
        let mut payload = vec![0; length.try_into().expect("it fits")];
        soon(client.read_exact(&mut payload))
            .await
            .expect("the server writes");
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&payload);
        if stream == 0 {
            continue;
        }
        frames.push(match kind {
            0 => format!("data {length}"),
            HEADERS => "headers".to_owned(),
            RST_STREAM => format!("reset {}", payload.as_slice().get_u32()),
            kind => panic!("the server has no reason to send a frame of type {kind}"),
        });
        if kind == RST_STREAM || flags & 1 != 0 {
            break;
        }
    }
    server.abort();
    (bytes, frames)
}

/// Checks that a service writes these frames, the last of which ends the stream. Below the layer it
/// must write the same bytes.
async fn unchanged(request: &[u8], frames: &[&str], answer: fn() -> Response<Script>) {
    let service = service_fn(move |request: Request<Incoming>| {
        if let Ok(tasks) = request.background_tasks() {
            tasks.add(async {});
        }
        std::future::ready(Ok::<_, Infallible>(answer()))
    });
    let layer = BackgroundLayer::new();
    let bare = written(service, request).await;
    assert_eq!(bare.1, frames);
    assert_eq!(written(layer.layer(service), request).await, bare);
    soon(layer.supervisor().idle()).await;
    assert_eq!(layer.supervisor().stats().succeeded, 1);
}

fn response(status: u16, body: Script) -> Response<Script> {
    Response::builder()
        .status(status)
        .header("x-test", "1")
        .body(body)
        .expect("it is a response")
}

fn full() -> Script {
    Script::new([Step::data("hello")]).sized(5).tells_end()
}

fn empty() -> Script {
    Script::new([]).sized(0).tells_end()
}

fn stream() -> Script {
    Script::new([Step::data("one"), Step::data("two")])
}

fn declaring(length: &str, body: Script) -> Response<Script> {
    Response::builder()
        .header("content-length", length)
        .body(body)
        .expect("it is a response")
}

#[tokio::test]
async fn known_bodies() {
    unchanged(GET, &["headers", "data 5"], || response(200, full())).await;
    unchanged(GET, &["headers", "data 5"], || response(404, full())).await;
    unchanged(GET, &["headers"], || response(200, empty())).await;
    unchanged(GET, &["headers"], || response(204, empty())).await;
    unchanged(GET, &["headers"], || response(304, empty())).await;
    unchanged(GET, &["headers"], || declaring("5", empty())).await;
}

#[tokio::test]
async fn streams() {
    unchanged(GET, &["headers", "data 3", "data 3", "data 0"], || {
        response(200, stream())
    })
    .await;
    unchanged(GET, &["headers", "data 3", "data 3"], || {
        response(200, stream().tells_end())
    })
    .await;
    unchanged(GET, &["headers", "data 3", "data 3", "data 0"], || {
        declaring("6", stream())
    })
    .await;
    unchanged(GET, &["headers", "data 0", "data 0"], || {
        response(200, Script::new([Step::data("")]))
    })
    .await;
    unchanged(GET, &["headers", "data 0"], || {
        response(200, Script::new([]))
    })
    .await;
}

#[tokio::test]
async fn trailers() {
    unchanged(GET, &["headers", "data 3", "headers"], || {
        response(
            200,
            Script::new([Step::data("one"), Step::trailer("a", "1")]),
        )
    })
    .await;
    unchanged(GET, &["headers", "headers"], || {
        response(200, Script::new([Step::trailer("a", "1")]))
    })
    .await;
}

#[tokio::test]
async fn large_bodies() {
    let mut frames = vec!["data 16384"; 65];
    frames[0] = "headers";
    unchanged(GET, &frames, || {
        response(
            200,
            Script::new([Step::data(vec![b'x'; 1 << 20])])
                .sized(1 << 20)
                .tells_end(),
        )
    })
    .await;
    unchanged(GET, &frames, || {
        let chunk = Bytes::from(vec![b'x'; 1 << 16]);
        response(
            200,
            Script::new((0..16).map(|_| Step::Data(chunk.clone()))).tells_end(),
        )
    })
    .await;
}

#[tokio::test]
async fn contradictory_bodies() {
    unchanged(GET, &["headers", "data 5"], || response(204, full())).await;
    unchanged(GET, &["headers", "data 5"], || response(304, full())).await;
    unchanged(HEAD, &["headers", "data 5"], || response(200, full())).await;
    unchanged(HEAD, &["headers"], || response(200, empty())).await;
    unchanged(GET, &["headers", "data 3", "data 3", "data 0"], || {
        declaring("3", stream())
    })
    .await;
    unchanged(GET, &["headers", "data 3", "data 3", "data 0"], || {
        declaring("9", stream())
    })
    .await;
    unchanged(GET, &["headers", "data 3", "data 3", "data 0"], || {
        response(200, stream().sized(3))
    })
    .await;
}

#[tokio::test]
async fn head_axum() {
    let router = axum::Router::new().route("/", axum::routing::get(async || "hello"));
    let bare = written(router.clone(), HEAD).await;
    assert_eq!(bare.1, ["headers"]);
    assert_eq!(
        written(router.clone().layer(BackgroundLayer::new()), HEAD).await,
        bare
    );
    assert_eq!(
        written(BackgroundLayer::new().layer(router), HEAD).await,
        bare
    );
}
