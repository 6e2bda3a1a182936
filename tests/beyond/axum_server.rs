//! The crate axum-server also stops in order: `begin_shutdown` ends its streams, and then its own
//! graceful shutdown succeeds.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor};

use crate::common::soon;

async fn events(tasks: BackgroundTasks) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stopping = tasks.stopping();
    tasks.add(async {});
    let events = stream::once(async { Event::default().data("hello") }).chain(stream::pending());
    Sse::new(events.take_until(stopping).map(Ok))
}

/// Requests a stream of events, and reads the first event.
pub(crate) async fn open_events(
    client: &reqwest::Client,
    url: String,
) -> impl Stream<Item = reqwest::Result<Bytes>> + Unpin + use<> {
    let response = soon(client.get(url).send()).await.expect("it answers");
    assert_eq!(response.status(), 200);
    let mut events = response.bytes_stream();
    let hello = soon(events.next())
        .await
        .expect("it is open")
        .expect("the connection is fine");
    assert_eq!(hello, "data: hello\n\n");
    events
}

#[tokio::test]
async fn endless_streams_end_and_their_tasks_run() {
    let supervisor = Supervisor::new();
    let app = Router::new()
        .route("/", get(events))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port")
        .into_std()
        .expect("it is a socket");
    let address = listener.local_addr().expect("it is bound");
    let handle = axum_server::Handle::new();
    let server = axum_server::from_tcp(listener)
        .expect("it listens")
        .handle(handle.clone())
        .serve(app.into_make_service());
    let server = tokio::spawn(server);

    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client needs nothing");
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(open_events(&client, format!("http://{address}/")).await);
    }
    supervisor.begin_shutdown();
    // Without a time of its own, the server waits for all connections.
    handle.graceful_shutdown(None);
    for mut events in streams {
        assert!(
            soon(events.next()).await.is_none(),
            "the stream ends in order"
        );
    }
    soon(server)
        .await
        .expect("no panic")
        .expect("the server ends well");
    assert!(
        soon(supervisor.shutdown(Duration::from_secs(20)))
            .await
            .is_clean()
    );
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().refused),
        (10, 0)
    );
}
