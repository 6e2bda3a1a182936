//! HTTP/2: how responses end that the server sends completely, even if the client rejects them.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{Method, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Notify;
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor, report::ResponseError};

use crate::{
    common::{Multiplexed, Script, Server, Step, Witness, rest, soon},
    responses::{self, assert_too_short, declaring, with_status},
    table::{check, check_each},
};

/// Requests once, and expects a head that ends the stream.
async fn head_only(server: &Server, method: Method, status: StatusCode) -> http::HeaderMap {
    let (response, _) = Multiplexed::connect(server).await.send(method, "/").await;
    let response = soon(response).await.expect("there is a head");
    assert_eq!(response.status(), status);
    assert!(response.body().is_end_stream(), "{response:?}");
    response.into_parts().0.headers
}

/// Requests once, and reads all.
async fn whole(server: &Server) -> Vec<u8> {
    let mut response = Multiplexed::connect(server).await.get("/").await;
    let (read, trailers) = rest(response.body_mut()).await.expect("it is whole");
    assert_eq!(trailers, None);
    read
}

/// Serves two frames of three bytes, and declares this length.
async fn declaring_stream(length: &'static str) -> Server {
    Server::new(move |_, course| {
        declaring(length, responses::stream().seen_by(course.expect_body()))
    })
    .await
}

/// Requests once, and checks that the client rejects a body whose length is not the declared one.
async fn assert_rejected(server: &Server) {
    let mut response = Multiplexed::connect(server).await.get("/").await;
    let error = rest(response.body_mut())
        .await
        .expect_err("the client counts the bytes");
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn full() {
    let server = responses::full().await;
    let mut response = Multiplexed::connect(&server).await.get("/").await;
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(
        rest(response.body_mut()).await.expect("it is whole").0,
        b"hello"
    );
    let seen = check(&server, "HTTP/2", "`Full`").await;
    assert_eq!(
        (seen.end.version(), seen.end.status()),
        (Version::HTTP_2, Some(StatusCode::OK))
    );
}

#[tokio::test]
async fn full_to_reqwest() {
    let server = responses::full().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .expect("it needs nothing");
    let response = soon(client.get(format!("http://{}/", server.address)).send())
        .await
        .expect("it answers");
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(soon(response.text()).await.expect("it is whole"), "hello");
    check(&server, "HTTP/2", "`Full`").await;
}

#[tokio::test]
async fn empty() {
    let server = responses::empty(200).await;
    head_only(&server, Method::GET, StatusCode::OK).await;
    check(&server, "HTTP/2", "empty body").await;
}

#[tokio::test]
async fn empty_script() {
    let server =
        Server::new(|_, course| Response::new(Script::new([]).seen_by(course.expect_body()))).await;
    assert_eq!(whole(&server).await, b"");
    check(&server, "HTTP/2", "empty body").await;
}

#[tokio::test]
async fn no_content() {
    let server = responses::empty(204).await;
    head_only(&server, Method::GET, StatusCode::NO_CONTENT).await;
    check(&server, "HTTP/2", "204").await;
}

#[tokio::test]
async fn not_modified() {
    let server = responses::empty(304).await;
    head_only(&server, Method::GET, StatusCode::NOT_MODIFIED).await;
    check(&server, "HTTP/2", "304 without body").await;
}

/// Serves this status with a body of five bytes.
async fn hello(status: u16) -> Server {
    Server::new(move |_, course| {
        let body = Script::new([Step::data("hello")]).sized(5).tells_end();
        with_status(status, body.seen_by(course.expect_body()))
    })
    .await
}

/// Requests a body for a status that must not have one. The server sends the body, and `h2` accepts
/// it. Other clients, such as curl, reset the stream.
async fn with_body(status: u16) -> Server {
    let server = hello(status).await;
    assert_eq!(whole(&server).await, b"hello");
    server
}

#[tokio::test]
async fn no_content_with_body() {
    let server = with_body(204).await;
    let seen = check(&server, "HTTP/2", "204 with body").await;
    assert_eq!(seen.end.error(), Some(ResponseError::NotAllowed));
}

#[tokio::test]
async fn not_modified_with_body() {
    let server = with_body(304).await;
    let seen = check(&server, "HTTP/2", "304 with body").await;
    assert_eq!(seen.end.error(), Some(ResponseError::NotAllowed));
}

#[tokio::test]
async fn head_bare() {
    let server = hello(200).await;
    let (response, _) = Multiplexed::connect(&server)
        .await
        .send(Method::HEAD, "/")
        .await;
    let mut response = soon(response).await.expect("there is a head");
    let error = rest(response.body_mut())
        .await
        .expect_err("the server sends what must not be there");
    assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
    let seen = check(&server, "HTTP/2", "HEAD through a bare service").await;
    assert_eq!(seen.end.error(), Some(ResponseError::NotAllowed));
}

#[tokio::test]
async fn head_bare_empty() {
    let server = responses::empty(200).await;
    head_only(&server, Method::HEAD, StatusCode::OK).await;
    check(&server, "HTTP/2", "HEAD through a bare service, empty body").await;
}

#[tokio::test]
async fn head_axum() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let watching = witness.clone();
    let handler = async move |tasks: BackgroundTasks| {
        watching.watch(&tasks);
        "hello"
    };
    let router = axum::Router::new()
        .route("/", axum::routing::get(handler))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let server = Server::axum(router, supervisor, witness).await;
    let headers = head_only(&server, Method::HEAD, StatusCode::OK).await;
    assert_eq!(headers["content-length"], "5");
    check(&server, "HTTP/2", "HEAD through an axum router").await;
}

#[tokio::test]
async fn stream() {
    let server =
        Server::new(|_, course| Response::new(responses::stream().seen_by(course.expect_body())))
            .await;
    assert_eq!(whole(&server).await, b"onetwo");
    check(&server, "HTTP/2", "chunked stream").await;
}

#[tokio::test]
async fn stream_with_length() {
    let server = declaring_stream("6").await;
    assert_eq!(whole(&server).await, b"onetwo");
    check(&server, "HTTP/2", "stream with `content-length`").await;
}

#[tokio::test]
async fn longer_than_declared() {
    let server = declaring_stream("3").await;
    assert_rejected(&server).await;
    let seen = check(&server, "HTTP/2", "body longer than declared").await;
    assert!(
        matches!(
            seen.end.error(),
            Some(ResponseError::TooLong {
                declared: 3,
                yielded: 6,
                ..
            })
        ),
        "{seen:?}"
    );
}

#[tokio::test]
async fn shorter_than_declared() {
    let server = Server::new(|_, course| {
        Response::new(
            Script::new([Step::data("one")])
                .sized(6)
                .seen_by(course.expect_body()),
        )
    })
    .await;
    assert_rejected(&server).await;
    let seen = check(&server, "HTTP/2", "body shorter than declared").await;
    assert_too_short(&seen);
}

#[tokio::test]
async fn trailers() {
    let server = Server::new(|_, course| {
        Response::new(
            Script::new([Step::data("hello"), Step::trailer("checksum", "42")])
                .seen_by(course.expect_body()),
        )
    })
    .await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .pool_timer(TokioTimer::new())
        .build_http::<Empty<Bytes>>();
    let uri = format!("http://{}/", server.address)
        .parse()
        .expect("it is a URI");
    let response = soon(client.get(uri)).await.expect("it answers");
    let body = soon(response.into_body().collect())
        .await
        .expect("it is whole");
    assert_eq!(body.trailers().expect("they were sent")["checksum"], "42");
    assert_eq!(body.to_bytes(), "hello");
    let seen = check(&server, "HTTP/2", "trailers").await;
    assert_eq!(
        seen.end.trailers().expect("they were seen")["checksum"],
        "42"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_streams() {
    const PATHS: [&str; 8] = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"];
    let go: Arc<[Arc<Notify>]> = PATHS.iter().map(|_| Arc::default()).collect();
    let wait = go.clone();
    let server = Server::new(move |request, course| {
        let nth = PATHS
            .iter()
            .position(|path| request.uri().path() == *path)
            .expect("it is one of these");
        let body = Script::new([
            Step::data("one"),
            Step::Wait(wait[nth].clone()),
            Step::data("two"),
        ]);
        Response::new(body.seen_by(course.expect_body()))
    })
    .await;
    let mut client = Multiplexed::connect(&server).await;
    let mut responses = Vec::new();
    for path in PATHS {
        responses.push(client.get(path).await);
    }
    assert_eq!(server.supervisor.stats().deferred, 8, "all are open");
    // They end in another order than they began.
    for (go, mut response) in go.iter().zip(responses).rev() {
        go.notify_one();
        assert_eq!(
            rest(response.body_mut()).await.expect("it is whole").0,
            b"onetwo"
        );
    }
    check_each(
        &server,
        "HTTP/2",
        "several streams on one connection",
        &PATHS,
    )
    .await;
}
