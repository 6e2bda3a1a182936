//! HTTP/1.1: how responses end that are cut off by their body, their handler or their client, and
//! one that goes on for ever.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::{Empty, Full};
use tokio::sync::Notify;
use tower_background::{EndKind, Supervisor, report::ResponseError};

use crate::{
    common::{Raw, Script, Server, Step, soon},
    responses::{assert_too_short, declaring, empty, pausing, silent},
    table::check,
};

/// Serves a body that yields a frame, and takes its last step when the second value is notified.
async fn then(last: fn() -> [Step; 1]) -> (Server, Arc<Notify>) {
    pausing(Supervisor::new(), last).await
}

/// Connects a client, reads the first frame of `pausing`, and checks that the task waits.
async fn read_one(server: &Server) -> Raw {
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("3\r\none\r\n").await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.deferred, stats.added()), (1, 1), "{stats:?}");
    client
}

#[tokio::test]
async fn too_short() {
    let told = Arc::new(Notify::new());
    let wait = Arc::clone(&told);
    let server = Server::new(move |_, course| {
        let body = Script::new([Step::data("one"), Step::Wait(Arc::clone(&wait))]);
        declaring("6", body.seen_by(course.expect_body()))
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\none").await;
    told.notify_one();
    assert_eq!(client.rest().await, "", "the server cuts the connection");
    let seen = check(&server, "HTTP/1.1", "body shorter than declared").await;
    assert_too_short(&seen);
}

#[tokio::test]
async fn error_at_once() {
    let server = Server::new(|_, course| {
        Response::new(Script::new([Step::Error]).seen_by(course.expect_body()))
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(client.rest().await, "", "the head is lost with the body");
    let seen = check(&server, "HTTP/1.1", "body error before the first frame").await;
    assert_eq!(seen.end.error(), Some(ResponseError::Body));
    assert_eq!(
        seen.end.status(),
        Some(http::StatusCode::OK),
        "there was a head, though it was not sent"
    );
}

#[tokio::test]
async fn error_after_a_frame() {
    let (server, told) = then(|| [Step::Error]).await;
    let mut client = read_one(&server).await;
    told.notify_one();
    assert_eq!(client.rest().await, "", "the last chunk never comes");
    let seen = check(&server, "HTTP/1.1", "body error after the first frame").await;
    assert_eq!(seen.end.error(), Some(ResponseError::Body));
}

#[tokio::test]
async fn panic_in_body() {
    let (server, told) = then(|| [Step::Panic]).await;
    let mut client = read_one(&server).await;
    told.notify_one();
    assert_eq!(client.rest().await, "", "the connection dies with its task");
    check(&server, "HTTP/1.1", "panic in the body").await;
}

#[tokio::test]
async fn panic_in_call() {
    let server = Server::new(|_, _| -> Response<Empty<Bytes>> { panic!("the test says so") }).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(client.rest().await, "", "the connection dies with its task");
    check(&server, "HTTP/1.1", "panic in the handler").await;
}

#[tokio::test]
async fn panic_in_handler() {
    let server = Server::awaiting(
        async |_, _| -> Result<Response<Empty<Bytes>>, std::io::Error> {
            tokio::task::yield_now().await;
            panic!("the test says so");
        },
    )
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(client.rest().await, "", "the connection dies with its task");
    let seen = check(&server, "HTTP/1.1", "panic in the handler").await;
    assert_eq!(seen.end.status(), None);
}

#[tokio::test]
async fn service_error() {
    let server =
        Server::awaiting(async |_, _| Err::<Response<Empty<Bytes>>, _>("the test says so")).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    assert_eq!(client.rest().await, "", "there is no response");
    let seen = check(&server, "HTTP/1.1", "service error").await;
    assert_eq!(seen.end.status(), None);
}

#[tokio::test]
async fn leaves_before_the_head() {
    let (server, called) = silent().await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    soon(called.notified()).await;
    drop(client);
    let seen = check(&server, "HTTP/1.1", "client leaves before the head").await;
    assert_eq!(seen.end.time_to_head(), None);
}

#[tokio::test]
async fn closes_mid_body() {
    let (server, _told) = then(|| [Step::data("two")]).await;
    drop(read_one(&server).await);
    check(&server, "HTTP/1.1", "client closes mid-body").await;
}

#[tokio::test]
async fn resets_mid_body() {
    let (server, _told) = then(|| [Step::data("two")]).await;
    read_one(&server).await.reset();
    check(&server, "HTTP/1.1", "client resets mid-body").await;
}

#[tokio::test]
async fn stops_reading() {
    // The frame is larger than the socket buffers, so the server does not ask for the second one.
    let large = || Step::data(vec![b'.'; 16 << 20]);
    let server = Server::new(move |_, course| {
        Response::new(Script::new([large(), large()]).seen_by(course.expect_body()))
    })
    .await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\n1000000\r\n").await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.deferred, stats.added()), (1, 1), "{stats:?}");
    drop(client);
    check(&server, "HTTP/1.1", "client stops reading, then leaves").await;
}

#[tokio::test]
async fn stops_reading_a_body_of_one_frame() {
    // The body has yielded all it had: it is not known here what of it was sent.
    let server = Server::new(|_, _| Response::new(Full::<Bytes>::from(vec![b'.'; 16 << 20]))).await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/").await;
    client.until("\r\n\r\n").await;
    drop(client);
    let seen = server.witness.next().await;
    assert_eq!(
        (seen.end.kind(), seen.end.bytes()),
        (EndKind::Complete, 16 << 20)
    );
    soon(server.supervisor.idle()).await;
    server.witness.nothing_else().await;
}

#[tokio::test]
async fn endless() {
    let supervisor = Supervisor::builder()
        .start_within(Duration::from_millis(20))
        .build();
    let (server, told) = pausing(supervisor, || [Step::data("two")]).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("3\r\none\r\n").await;
    check(&server, "HTTP/1.1", "endless stream with `start_within`").await;
    // The response goes on, and its end releases nothing a second time.
    told.notify_one();
    assert_eq!(client.until("0\r\n\r\n").await, "3\r\ntwo\r\n0\r\n\r\n");
    client.finish().await;
    assert_eq!(client.rest().await, "");
    server.witness.nothing_else().await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.added(), stats.succeeded), (1, 1), "{stats:?}");
}

/// hyper answers in place of the service, and closes the connection.
#[tokio::test]
async fn informational_status() {
    for status in [100, 103, 199] {
        let server = empty(status).await;
        let mut client = Raw::connect(server.address).await;
        client.get("/").await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.1 500 "), "{response}");
        let seen = check(&server, "HTTP/1.1", "status 100-199").await;
        assert_eq!(seen.end.error(), Some(ResponseError::InformationalStatus));
    }
}
