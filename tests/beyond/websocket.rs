//! The conversation of an axum WebSocket is a task of the supervisor.

use std::time::Duration;

use axum::{
    Router,
    extract::{
        State,
        ws::{Message, WebSocketUpgrade},
    },
    response::Response,
    routing::get,
};
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, sync::oneshot};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite};
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Supervisor, Task, defer};

use crate::common::{Recorder, Server, Witness, soon, start_with};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// When a conversation of the test ends.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// At `stopping`.
    Stopping,
    /// When its token is cancelled.
    Cancelled,
}

/// The server: `axum::serve`, or the one of hyper-util for HTTP/1.1 and HTTP/2.
#[derive(Debug, Clone, Copy)]
enum Serves {
    Axum,
    Hyper,
}

#[derive(Clone)]
struct App {
    supervisor: Supervisor,
    ends: Ends,
}

async fn handler(upgrade: WebSocketUpgrade, State(app): State<App>) -> Response {
    let (sender, socket) = oneshot::channel();
    let supervisor = app.supervisor.clone();
    let conversation = Task::with_context(move |cx| async move {
        let mut socket: axum::extract::ws::WebSocket = socket.await?;
        socket.send(Message::Text("hello".into())).await?;
        match app.ends {
            Ends::Stopping => app.supervisor.stopping().await,
            Ends::Cancelled => cx.cancelled().await,
        }
        socket.send(Message::Close(None)).await?;
        let tasks = BackgroundTasks::current().ok_or("this is a task")?;
        tasks.add(Task::new(async { tokio::task::yield_now().await }).named("added"));
        defer(Task::new(async {}).named("deferred"))?;
        Ok::<_, BoxError>(())
    });
    let _handle = supervisor
        .spawn(conversation.named("conversation"))
        .expect("the supervisor is open");
    upgrade.on_upgrade(|socket| async {
        let _ = sender.send(socket);
    })
}

/// A server, and a client that has read its greeting.
async fn connected(kind: Serves, ends: Ends) -> (Server, Recorder, Client) {
    let recorder = Recorder::default();
    let supervisor = Supervisor::builder().observer(recorder.clone()).build();
    let router = Router::new()
        .route("/", get(handler))
        .with_state(App {
            supervisor: supervisor.clone(),
            ends,
        })
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let server = match kind {
        Serves::Axum => Server::axum(router, supervisor, Witness::new()).await,
        Serves::Hyper => Server::serve(router, supervisor, Witness::new()).await,
    };
    let (mut client, _) = soon(connect_async(format!("ws://{}/", server.address)))
        .await
        .expect("the server upgrades");
    assert_eq!(next(&mut client).await, tungstenite::Message::text("hello"));
    (server, recorder, client)
}

async fn next(client: &mut Client) -> tungstenite::Message {
    soon(client.next())
        .await
        .expect("the WebSocket is open")
        .expect("the connection is fine")
}

/// The ends of the tasks, sorted.
fn ended(recorder: &Recorder) -> Vec<String> {
    let mut ended = recorder.lines_of("ended");
    ended.sort();
    ended
}

const ALL: [&str; 3] = [
    "ended added succeeded",
    "ended conversation succeeded",
    "ended deferred succeeded",
];

#[tokio::test]
async fn a_shutdown_waits_for_it_and_for_what_it_adds() {
    for serves in [Serves::Axum, Serves::Hyper] {
        let (mut server, recorder, mut client) = connected(serves, Ends::Stopping).await;
        server.shut_down().await;
        assert_eq!(
            server.supervisor.stats().running,
            1,
            "{serves:?} does not wait for the WebSocket"
        );
        let report = soon(server.supervisor.shutdown(Duration::from_secs(20))).await;
        assert!(report.is_clean(), "{serves:?}: {report:?}");
        assert_eq!(ended(&recorder), ALL, "{serves:?}");
        assert_eq!(server.supervisor.stats().refused, 0);
        assert!(next(&mut client).await.is_close());
    }
}

#[tokio::test]
async fn the_end_of_the_grace_cancels_it_and_what_it_adds_runs() {
    for serves in [Serves::Axum, Serves::Hyper] {
        let (server, recorder, mut client) = connected(serves, Ends::Cancelled).await;
        server.supervisor.begin_shutdown();
        assert_eq!(
            server.supervisor.stats().running,
            1,
            "`begin_shutdown` cancels nothing"
        );
        let report = soon(server.supervisor.shutdown(Duration::ZERO)).await;
        assert!(report.abandoned().is_empty(), "{serves:?}: {report:?}");
        assert_eq!(ended(&recorder), ALL, "{serves:?}");
        assert_eq!(server.supervisor.stats().refused, 0);
        assert!(next(&mut client).await.is_close());
    }
}

#[tokio::test]
async fn it_is_listed_while_it_runs() {
    let (server, _recorder, _client) = connected(Serves::Axum, Ends::Cancelled).await;
    let tasks = server.supervisor.tasks();
    assert_eq!(
        tasks.iter().map(|task| task.name()).collect::<Vec<_>>(),
        [Some("conversation")]
    );
    let busy = server
        .supervisor
        .idle_within(Duration::ZERO)
        .await
        .expect_err("the conversation runs");
    assert_eq!((busy.tasks().len(), busy.open_responses()), (1, 0));
}

#[tokio::test]
async fn the_example_ends_with_its_first_conversation() {
    let (mut child, address, mut lines) = start_with("websocket", "axum", &["--once"]).await;
    let (mut client, _) = soon(connect_async(address))
        .await
        .expect("the example upgrades");
    for _ in 0..2 {
        client
            .send(tungstenite::Message::text("echo"))
            .await
            .expect("the WebSocket is open");
        assert_eq!(next(&mut client).await, tungstenite::Message::text("echo"));
    }
    client.close(None).await.expect("the WebSocket is open");
    let line = soon(lines.next_line()).await.expect("it prints text");
    assert_eq!(
        line.as_deref(),
        Some("the log has a conversation of 2 messages")
    );
    assert!(
        soon(child.wait())
            .await
            .expect("it can be waited for")
            .success()
    );
}
