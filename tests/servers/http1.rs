//! HTTP/1.1: how complete responses end. The clients are plain sockets, hyper, reqwest and curl.

use axum::{body::Body, extract::Request, middleware::map_response, routing::get};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_background::{BackgroundLayer, BackgroundTasksExt, Supervisor};

use crate::{
    common::{Raw, Script, Server, Step, Witness, soon},
    responses::{self, declaring, stream, with_status},
    table::{check, check_each},
};

/// Sends one request, reads until the server closes, and checks a part of the head, and the body.
async fn exchange(server: &Server, line: &str, head: &str, body: &str) {
    let mut client = Raw::connect(server.address).await;
    client
        .send(format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
        .await;
    let response = client.rest().await;
    let (answered, rest) = response
        .split_once("\r\n\r\n")
        .expect("the response has a head");
    assert!(answered.contains(head), "{response}");
    assert_eq!(rest, body);
}

#[tokio::test]
async fn full() {
    let server = responses::full().await;
    exchange(&server, "GET /", "\r\ncontent-length: 5", "hello").await;
    let seen = check(&server, "HTTP/1.1", "`Full`").await;
    assert_eq!(seen.end.status(), Some(StatusCode::OK));
    assert_eq!(seen.end.version(), http::Version::HTTP_11);
}

#[tokio::test]
async fn empty() {
    let server = responses::empty(200).await;
    exchange(&server, "GET /", "\r\ncontent-length: 0", "").await;
    check(&server, "HTTP/1.1", "empty body").await;
}

#[tokio::test]
async fn no_content() {
    let server = responses::empty(204).await;
    exchange(&server, "GET /", "HTTP/1.1 204 ", "").await;
    check(&server, "HTTP/1.1", "204").await;
}

#[tokio::test]
async fn not_modified() {
    let server = responses::empty(304).await;
    exchange(&server, "GET /", "HTTP/1.1 304 ", "").await;
    check(&server, "HTTP/1.1", "304 without body").await;
}

#[tokio::test]
async fn not_modified_with_body() {
    let server =
        Server::new(|_, course| with_status(304, stream().seen_by(course.expect_body()))).await;
    exchange(&server, "GET /", "HTTP/1.1 304 ", "").await;
    check(&server, "HTTP/1.1", "304 with body").await;
}

#[tokio::test]
async fn head_of_service() {
    let server =
        Server::new(|_, course| Response::new(stream().sized(6).seen_by(course.expect_body())))
            .await;
    exchange(&server, "HEAD /", "\r\ncontent-length: 6", "").await;
    check(&server, "HTTP/1.1", "HEAD through a bare service").await;
}

#[tokio::test]
async fn head_of_router() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let watching = witness.clone();
    let handler = async move |request: Request| {
        let course = watching.watch(&request.background_tasks().expect("the layer is there"));
        Response::new(Body::new(stream().sized(6).seen_by(course.expect_body())))
    };
    let router = axum::Router::new()
        .route("/", get(handler))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    // When the response passes here, the router has dropped the body, and the head is not sent.
    let (sender, mut passing) = tokio::sync::mpsc::unbounded_channel();
    let stats = supervisor.clone();
    let router = axum::Router::new()
        .fallback_service(router)
        .layer(map_response(move |response: Response<Body>| {
            sender.send(stats.stats()).expect("the test is there");
            std::future::ready(response)
        }));
    let server = Server::axum(router, supervisor, witness).await;
    exchange(&server, "HEAD /", "\r\ncontent-length: 6", "").await;
    let stats = soon(passing.recv()).await.expect("a response came by");
    assert_eq!((stats.deferred, stats.added()), (1, 1), "{stats:?}");
    check(&server, "HTTP/1.1", "HEAD through an axum router").await;
}

#[tokio::test]
async fn chunked_stream() {
    let server =
        Server::new(|_, course| Response::new(stream().seen_by(course.expect_body()))).await;
    exchange(
        &server,
        "GET /",
        "\r\ntransfer-encoding: chunked",
        "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
    )
    .await;
    check(&server, "HTTP/1.1", "chunked stream").await;
}

#[tokio::test]
async fn chunked_stream_to_curl() {
    let server =
        Server::new(|_, course| Response::new(stream().seen_by(course.expect_body()))).await;
    let url = format!("http://{}/", server.address);
    let curl = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*", &url])
        .output();
    match soon(curl).await {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout, b"onetwo", "{output:?}");
            check(&server, "HTTP/1.1", "chunked stream").await;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no curl here");
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn stream_with_length() {
    let server =
        Server::new(|_, course| declaring("6", stream().seen_by(course.expect_body()))).await;
    // A chunked body would have another form.
    exchange(&server, "GET /", "\r\ncontent-length: 6", "onetwo").await;
    check(&server, "HTTP/1.1", "stream with `content-length`").await;
}

#[tokio::test]
async fn stream_with_length_to_reqwest() {
    let server =
        Server::new(|_, course| declaring("6", stream().seen_by(course.expect_body()))).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("it needs nothing");
    let response = soon(client.get(format!("http://{}/", server.address)).send())
        .await
        .expect("it answers");
    assert_eq!(response.version(), http::Version::HTTP_11);
    assert_eq!(response.content_length(), Some(6));
    assert_eq!(soon(response.text()).await.expect("it is whole"), "onetwo");
    check(&server, "HTTP/1.1", "stream with `content-length`").await;
}

#[tokio::test]
async fn too_long() {
    let server =
        Server::new(|_, course| declaring("4", stream().seen_by(course.expect_body()))).await;
    exchange(&server, "GET /", "\r\ncontent-length: 4", "onet").await;
    check(&server, "HTTP/1.1", "body longer than declared").await;
}

#[tokio::test]
async fn trailers() {
    let server = Server::new(|_, course| {
        let body = Script::new([Step::data("hello"), Step::trailer("x-sum", "15")])
            .seen_by(course.expect_body());
        Response::builder()
            .header("trailer", "x-sum")
            .body(body)
            .expect("the header is valid")
    })
    .await;
    let stream = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let (mut client, connection) =
        soon(hyper::client::conn::http1::handshake(TokioIo::new(stream)))
            .await
            .expect("it is open");
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/")
        .header("host", "localhost")
        .header("te", "trailers");
    let request = request
        .body(Empty::<Bytes>::new())
        .expect("the headers are valid");
    let response = soon(client.send_request(request))
        .await
        .expect("it answers");
    let body = soon(response.into_body().collect())
        .await
        .expect("it is whole");
    assert_eq!(body.trailers().expect("they are sent")["x-sum"], "15");
    assert_eq!(body.to_bytes(), "hello");
    let seen = check(&server, "HTTP/1.1", "trailers").await;
    assert_eq!(seen.end.trailers().expect("they are noted")["x-sum"], "15");
    drop(client);
    soon(connection)
        .await
        .expect("it does not panic")
        .expect("it closes");
}

#[tokio::test]
async fn leaves_after_the_end() {
    let server = responses::full().await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\nhello").await;
    client.finish().await;
    assert_eq!(client.rest().await, "", "the server closes too");
    check(&server, "HTTP/1.1", "client leaves after the end").await;
}

/// Echoes a path of five bytes, so that a swapped or doubled response shows.
async fn echo() -> Server {
    Server::new(|request, course| {
        let path = Bytes::copy_from_slice(request.uri().path().as_bytes());
        Response::new(
            Script::new([Step::Data(path)])
                .sized(5)
                .tells_end()
                .seen_by(course.expect_body()),
        )
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined() {
    let server = echo().await;
    let mut client = Raw::connect(server.address).await;
    let requests = ["/aaaa", "/bbbb", "/cccc"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    client.send(requests.concat()).await;
    for path in ["/aaaa", "/bbbb", "/cccc"] {
        let head = client.until("\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n"),
            "{head}"
        );
        assert_eq!(client.until(path).await, path);
    }
    client.finish().await;
    assert_eq!(client.rest().await, "");
    check_each(
        &server,
        "HTTP/1.1",
        "pipelined requests",
        &["/aaaa", "/bbbb", "/cccc"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_alive() {
    let server = echo().await;
    let mut client = Raw::connect(server.address).await;
    for path in ["/aaaa", "/bbbb", "/cccc"] {
        client.get(path).await;
        let head = client.until("\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n"),
            "{head}"
        );
        assert_eq!(client.until(path).await, path);
    }
    check_each(
        &server,
        "HTTP/1.1",
        "keep-alive reuse",
        &["/aaaa", "/bbbb", "/cccc"],
    )
    .await;
    client.finish().await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn connection_close() {
    let server = Server::new(|_, course| {
        let body = stream().seen_by(course.expect_body());
        Response::builder()
            .header("connection", "close")
            .body(body)
            .expect("the header is valid")
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    let response = client.rest().await;
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert!(
        response.ends_with("\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        "{response}"
    );
    check(&server, "HTTP/1.1", "`Connection: close`").await;
}

#[tokio::test]
async fn connect() {
    let server = Server::new(|request, course| {
        tokio::spawn(async move {
            let mut tunnel =
                TokioIo::new(hyper::upgrade::on(request).await.expect("it is accepted"));
            let mut ping = [0; 4];
            while tunnel.read_exact(&mut ping).await.is_ok() {
                tunnel.write_all(&ping).await.expect("the client reads");
            }
        });
        Response::new(stream().seen_by(course.expect_body()))
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client
        .send("CONNECT example.org:80 HTTP/1.1\r\nhost: example.org:80\r\n\r\n")
        .await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let seen = check(&server, "HTTP/1.1", "CONNECT").await;
    assert_eq!(seen.end.path(), "", "the target is no path");
    // The response is over, and what it opened is not.
    client.send("ping").await;
    assert_eq!(client.until("ping").await, "ping");
    client.finish().await;
    assert_eq!(client.rest().await, "");
}
