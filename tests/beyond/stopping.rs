//! A process with endless streams, web sockets and an upload stops in order at SIGTERM.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::connect_async;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    axum_server::open_events,
    common::{ended, soon, start, terminate},
};

/// The grace of the examples.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn axum_with_streams_web_sockets_and_an_upload() {
    let (child, address, mut lines) = start("shutdown_streams", "axum").await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client needs nothing");

    let events = join_all(
        (0..10).map(|_| async { open_events(&client, format!("http://{address}/events")).await }),
    )
    .await;
    let sockets = join_all((0..3).map(|_| async {
        let (mut socket, _) = soon(connect_async(format!("ws://{address}/socket")))
            .await
            .expect("it upgrades");
        let hello = soon(socket.next())
            .await
            .expect("it is open")
            .expect("the connection is fine");
        assert_eq!(hello.into_text().expect("it is text"), "hello");
        socket
    }))
    .await;
    let (chunks, body) = mpsc::channel::<Result<&'static str, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(ReceiverStream::new(body));
    let upload = tokio::spawn(
        client
            .post(format!("http://{address}/upload"))
            .body(body)
            .send(),
    );
    for _ in 0..3 {
        soon(chunks.send(Ok("chunk")))
            .await
            .expect("the client sends it");
    }
    // A server that stops may close a connection whose request it has not read.
    let line = soon(lines.next_line()).await.expect("it prints text");
    assert_eq!(line.as_deref(), Some("an upload begins"));

    terminate(&child).await;
    let signalled = Instant::now();
    for mut events in events {
        // The chunked body ends in order, or this is an error.
        let mut rest = String::new();
        while let Some(event) = soon(events.next()).await {
            rest.push_str(
                std::str::from_utf8(&event.expect("the stream ends in order")).expect("it is text"),
            );
        }
        assert_eq!(rest, "data: goodbye\n\n");
    }
    for mut socket in sockets {
        let close = soon(socket.next())
            .await
            .expect("it is open")
            .expect("the connection is fine");
        assert!(close.is_close(), "{close:?}");
        // The client answers while it is polled, and the server closes the connection.
        while let Some(message) = soon(socket.next()).await {
            message.expect("the WebSocket ends in order");
        }
    }
    // The upload goes on after all the others have ended.
    soon(chunks.send(Ok("chunk")))
        .await
        .expect("the client sends it");
    drop(chunks);
    let response = soon(upload)
        .await
        .expect("no panic")
        .expect("the server answers");
    assert_eq!(response.status(), 201);
    assert_eq!(
        soon(response.text()).await.expect("the body ends well"),
        "20 bytes"
    );

    let (status, printed) = ended(child, lines).await;
    assert!(signalled.elapsed() < GRACE, "{:?}", signalled.elapsed());
    assert!(status.success(), "{printed:?}");
    let count = |line: &str| printed.iter().filter(|printed| *printed == line).count();
    assert_eq!(count("task: events"), 10, "{printed:?}");
    assert_eq!(count("task: conversation"), 3, "{printed:?}");
    assert_eq!(count("task: upload of 20 bytes"), 1, "{printed:?}");
    let report = printed.last().expect("the server prints a report");
    assert!(report.starts_with("clean shutdown"), "{report}");
}

#[tokio::test]
async fn tonic_with_server_streams() {
    let (child, address, lines) = start("shutdown_tonic", "tonic").await;
    let endpoint = Endpoint::try_from(format!("http://{address}")).expect("it is an address");
    let mut client = HealthClient::new(soon(endpoint.connect()).await.expect("the server listens"));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let response = soon(client.watch(HealthCheckRequest::default()))
            .await
            .expect("it answers");
        let mut stream = response.into_inner();
        let first = soon(stream.message())
            .await
            .expect("the connection is fine")
            .expect("it is open");
        assert_eq!(first.status, 1);
        streams.push(stream);
        soon(client.check(HealthCheckRequest::default()))
            .await
            .expect("it answers");
    }

    terminate(&child).await;
    let signalled = Instant::now();
    for mut stream in streams {
        let last = soon(stream.message())
            .await
            .expect("the connection is fine")
            .expect("it is open");
        assert_eq!(last.status, 2, "it does not serve any more");
        assert!(
            soon(stream.message())
                .await
                .expect("the stream ends with the status OK")
                .is_none()
        );
    }
    let (status, printed) = ended(child, lines).await;
    assert!(signalled.elapsed() < GRACE, "{:?}", signalled.elapsed());
    assert!(status.success(), "{printed:?}");
    let count = |line: &str| printed.iter().filter(|printed| *printed == line).count();
    assert_eq!((count("request"), count("task")), (3, 3), "{printed:?}");
    let report = printed.last().expect("the server prints a report");
    assert!(report.starts_with("clean shutdown"), "{report}");
}
