//! A WebSocket whose conversation is a task of the supervisor, so that a shutdown waits for it.
//!
//! `cargo run --example websocket -- 127.0.0.1:3000` serves until Ctrl-C. Connect to
//! `ws://127.0.0.1:3000/echo` with any client. Arguments: an address to listen on, and `--once` to
//! stop after the first conversation.

use std::{env, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    signal,
    sync::{Notify, oneshot},
};
use tower_background::{BackgroundLayer, BoxError, Supervisor, Task, TaskContext, defer};

#[derive(Clone)]
struct App {
    supervisor: Supervisor,
    conversation_ended: Arc<Notify>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let (flags, addresses): (Vec<_>, Vec<_>) = env::args()
        .skip(1)
        .partition(|argument| argument == "--once");
    let address = addresses.first().map_or("127.0.0.1:0", String::as_str);

    let supervisor = Supervisor::new();
    let app = App {
        supervisor: supervisor.clone(),
        conversation_ended: Arc::default(),
    };
    let conversation_ended = app.conversation_ended.clone();
    let router = Router::new()
        .route("/echo", get(echo))
        .with_state(app)
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));

    let listener = TcpListener::bind(address).await?;
    println!("ws://{}/echo", listener.local_addr()?);
    let stopping = supervisor.clone();
    let stop = async move {
        if flags.is_empty() {
            let _ = signal::ctrl_c().await;
        } else {
            conversation_ended.notified().await;
        }
        // Each conversation that is still open closes its WebSocket now.
        stopping.begin_shutdown();
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await?;

    // axum does not wait for WebSockets. The supervisor waits for the conversations, and for the
    // tasks that they add.
    let report = supervisor.shutdown(Duration::from_secs(10)).await;
    println!("{report}");
    Ok(())
}

/// Spawns the conversation before the response, while a shutdown still waits for this request. A
/// task that is spawned after the upgrade could be refused.
async fn echo(upgrade: WebSocketUpgrade, State(app): State<App>) -> Response {
    let (sender, socket) = oneshot::channel();
    let supervisor = app.supervisor.clone();
    let conversation = Task::with_context(|cx| async move {
        // The sender is dropped without a socket if the connection is lost before the upgrade.
        if let Ok(socket) = socket.await {
            converse(socket, &cx, &app).await?;
        }
        Ok::<_, BoxError>(())
    });
    match supervisor.spawn(conversation.named("conversation")) {
        Ok(_handle) => upgrade.on_upgrade(|socket| async {
            // Sending fails if the task was aborted. The socket is closed then.
            let _ = sender.send(socket);
        }),
        Err(_refused) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Sends each message back, until the client closes the WebSocket or the process stops.
async fn converse(mut socket: WebSocket, cx: &TaskContext, app: &App) -> Result<(), BoxError> {
    let mut messages = 0;
    let mut is_closing = false;
    loop {
        let message = tokio::select! {
            message = socket.recv() => message,
            () = app.supervisor.stopping(), if !is_closing => {
                is_closing = true;
                let frame = CloseFrame { code: close_code::AWAY, reason: "the server stops".into() };
                socket.send(Message::Close(Some(frame))).await?;
                // The client answers with its own close frame.
                continue;
            }
            // The grace of the shutdown is over, and the client did not answer.
            () = cx.cancelled() => break,
        };
        match message.transpose()? {
            Some(text @ Message::Text(_)) if !is_closing => {
                messages += 1;
                socket.send(text).await?;
            }
            Some(Message::Close(_)) | None => break,
            Some(_) => {}
        }
    }
    // The conversation is a task itself, so it can add tasks. The shutdown waits for them too.
    defer(async move { println!("the log has a conversation of {messages} messages") })?;
    app.conversation_ended.notify_one();
    Ok(())
}
