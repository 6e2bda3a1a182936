//! HTTP/2: how responses end that are cut or delayed, by the client or by a server that stops.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Response};
use http_body_util::Full;
use tokio::sync::Notify;
use tower_background::Supervisor;

use crate::{
    common::{Multiplexed, Script, Server, Step, data, next_data, rest, soon, unreleased_data},
    responses::{full, pausing, silent},
    table::check,
};

/// Serves a body that yields a frame, and a second one when the second value is notified.
async fn one_two() -> (Server, Arc<Notify>) {
    pausing(Supervisor::new(), || [Step::data("two")]).await
}

/// Requests the body of `pausing`, and reads its first frame. The second value can reset the
/// stream.
pub(crate) async fn read_one(
    client: &mut Multiplexed,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (response, stream) = client.send(Method::GET, "/").await;
    let mut response = soon(response).await.expect("there is a head");
    assert_eq!(next_data(response.body_mut()).await, "one");
    (response, stream)
}

/// Checks that the connection still serves requests, with the path `/next` of `pausing`.
pub(crate) async fn assert_still_serves(client: &mut Multiplexed, server: &Server) {
    assert_eq!(client.get("/next").await.status(), 200);
    assert_eq!(server.witness.next().await.end.path(), "/next");
}

#[tokio::test]
async fn leaves_before_the_head() {
    let (server, asked) = silent().await;
    let mut client = Multiplexed::connect(&server).await;
    let _response = client.send(Method::GET, "/").await;
    soon(asked.notified()).await;
    client.leave().await;
    check(&server, "HTTP/2", "client leaves before the head").await;
}

#[tokio::test]
async fn resets_before_the_head() {
    let (server, asked) = silent().await;
    let mut client = Multiplexed::connect(&server).await;
    let (_response, mut stream) = client.send(Method::GET, "/").await;
    soon(asked.notified()).await;
    stream.send_reset(Reason::CANCEL);
    let seen = check(&server, "HTTP/2", "client leaves before the head").await;
    assert_eq!((seen.end.status(), seen.end.time_to_head()), (None, None));
}

#[tokio::test]
async fn closes_mid_body() {
    let (server, _) = one_two().await;
    let mut client = Multiplexed::connect(&server).await;
    let _response = read_one(&mut client).await;
    client.leave().await;
    check(&server, "HTTP/2", "client closes mid-body").await;
}

#[tokio::test]
async fn resets_mid_body() {
    let (server, _) = one_two().await;
    let mut client = Multiplexed::connect(&server).await;
    let (_response, mut stream) = read_one(&mut client).await;
    stream.send_reset(Reason::CANCEL);
    check(&server, "HTTP/2", "client resets mid-body").await;
    assert_still_serves(&mut client, &server).await;
}

#[tokio::test]
async fn leaves_after_the_end() {
    let server = full().await;
    let mut client = Multiplexed::connect(&server).await;
    let mut response = client.get("/").await;
    assert_eq!(
        rest(response.body_mut()).await.expect("it is whole").0,
        b"hello"
    );
    client.leave().await;
    check(&server, "HTTP/2", "client leaves after the end").await;
}

#[tokio::test]
async fn stops_reading_then_leaves() {
    // Each chunk fills the first window of streams and connections, so the server cannot send the
    // second one.
    const WINDOW: usize = 65_535;
    let server = Server::new(|_, course| {
        let chunk = Bytes::from(vec![b'x'; WINDOW]);
        Response::new(
            Script::new((0..16).map(|_| Step::Data(chunk.clone()))).seen_by(course.expect_body()),
        )
    })
    .await;
    let mut client = Multiplexed::connect(&server).await;
    let mut response = client.get("/").await;
    let mut received = 0;
    while received < WINDOW {
        received += unreleased_data(response.body_mut()).await.len();
    }
    assert_eq!(
        server.supervisor.stats().deferred,
        1,
        "the response is open"
    );
    client.leave().await;
    check(&server, "HTTP/2", "client stops reading, then leaves").await;
}

#[tokio::test]
async fn leaves_a_full_unread() {
    let server =
        Server::new(|_, _| Response::new(Full::new(Bytes::from(vec![b'x'; 1 << 20])))).await;
    let mut client = Multiplexed::connect(&server).await;
    let _response = client.get("/").await;
    // The server has queued the whole body, and the window lets it send a sixteenth. So the rest is
    // yielded, but not sent.
    client.leave().await;
    check(
        &server,
        "HTTP/2",
        "`Full` beyond the window, client leaves unread",
    )
    .await;
}

#[tokio::test]
async fn resets_a_last_frame_without_window() {
    let server = Server::new(|_, course| {
        Response::new(
            Script::new([Step::data("hello")])
                .tells_end()
                .seen_by(course.expect_body()),
        )
    })
    .await;
    let mut client = Multiplexed::with_window(&server, 0).await;
    let (response, mut stream) = client.send(Method::GET, "/").await;
    soon(response).await.expect("there is a head");
    assert_eq!(
        server.supervisor.stats().deferred,
        1,
        "a last frame that was only yielded releases nothing"
    );
    stream.send_reset(Reason::CANCEL);
    check(
        &server,
        "HTTP/2",
        "window of 0, client resets before the last frame is sent",
    )
    .await;
}

#[tokio::test]
async fn window_of_one_byte() {
    const CHUNK: usize = 1 << 16;
    const WIDE: usize = 1 << 16;
    let server = Server::new(|_, course| {
        let chunks = (0..16).map(|n| Step::data(vec![n; CHUNK]));
        Response::new(
            Script::new(chunks)
                .tells_end()
                .seen_by(course.expect_body()),
        )
    })
    .await;
    let mut client = Multiplexed::with_window(&server, 1).await;
    let mut response = client.get("/").await;
    let mut read = Vec::new();
    for _ in 0..100 {
        let byte = next_data(response.body_mut()).await;
        assert_eq!(byte.len(), 1);
        read.extend_from_slice(&byte);
        assert_eq!(
            server.supervisor.stats().deferred,
            1,
            "the response is open"
        );
    }
    client.set_window(WIDE.try_into().expect("it is a window"));
    while let Some(data) = data(response.body_mut()).await {
        read.extend_from_slice(&data.expect("the server sends"));
        // The server takes the last chunk when the window reaches it, although the body yielded it
        // long before.
        if read.len() + WIDE <= 15 * CHUNK {
            assert_eq!(
                server.supervisor.stats().deferred,
                1,
                "after {} bytes",
                read.len()
            );
        }
    }
    assert!(response.body().is_end_stream());
    assert_eq!(read.len(), 16 * CHUNK);
    assert!(
        read.chunks(CHUNK)
            .zip(0..)
            .all(|(chunk, n)| chunk.iter().all(|byte| *byte == n)),
        "in order"
    );
    check(&server, "HTTP/2", "window of 1 byte and 1 MiB of body").await;
}

#[tokio::test]
async fn declared_length_without_end() {
    let server = Server::new(|_, course| {
        Response::new(
            Script::new([Step::data("hello"), Step::Hang])
                .sized(5)
                .seen_by(course.expect_body()),
        )
    })
    .await;
    let mut client = Multiplexed::connect(&server).await;
    let (response, mut stream) = client.send(Method::GET, "/").await;
    let mut response = soon(response).await.expect("there is a head");
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(next_data(response.body_mut()).await, "hello");
    // The client has all that was declared, and waits for the end of the stream.
    assert!(!response.body().is_end_stream());
    stream.send_reset(Reason::CANCEL);
    check(
        &server,
        "HTTP/2",
        "a stream that yields its declared length and never ends",
    )
    .await;
}

#[tokio::test]
async fn endless_stream() {
    let supervisor = Supervisor::builder()
        .start_within(Duration::from_millis(20))
        .build();
    let (server, go) = pausing(supervisor, || [Step::data("two"), Step::Hang]).await;
    let mut client = Multiplexed::connect(&server).await;
    let (mut response, _) = read_one(&mut client).await;
    check(&server, "HTTP/2", "endless stream with `start_within`").await;
    go.notify_one();
    assert_eq!(next_data(response.body_mut()).await, "two");
    client.leave().await;
}

#[tokio::test]
async fn graceful_shutdown() {
    let (mut server, go) = one_two().await;
    let mut client = Multiplexed::connect(&server).await;
    let (mut response, _) = read_one(&mut client).await;
    let serving = async {
        client.refused().await;
        go.notify_one();
        rest(response.body_mut()).await.expect("it is whole").0
    };
    let ((), read) = tokio::join!(server.shut_down(), serving);
    assert_eq!(read, b"two");
    client.closed().await.expect("the server takes its leave");
    check(&server, "HTTP/2", "graceful shutdown mid-body").await;
}

#[tokio::test]
async fn server_stops() {
    let (server, _) = one_two().await;
    let mut client = Multiplexed::connect(&server).await;
    let (mut response, _) = read_one(&mut client).await;
    server.stop();
    rest(response.body_mut()).await.expect_err("it is cut");
    check(&server, "HTTP/2", "server stops mid-body").await;
}
