//! The handlers of the application.

use axum::{
    Router,
    body::Body,
    extract::{
        Request, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{StatusCode, header::CONTENT_TYPE};
use tokio::sync::oneshot;
use tower_background::{BackgroundTasks, BoxError, Task, defer};

use crate::{
    app::{App, Event},
    grpc,
};

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/success", get(success))
        .route("/stream", get(stream))
        .route("/fails", get(fails))
        .route("/endless", get(endless))
        .route("/upload", post(upload))
        .route("/socket", any(socket))
        .route("/matrix.Matrix/{method}", post(grpc::serve))
        .with_state(app)
}

async fn success(State(app): State<App>, tasks: BackgroundTasks) -> &'static str {
    app.leave_task(&tasks);
    "hello"
}

/// Answers with these chunks as they come.
fn chunks(chunks: impl Stream<Item = Result<&'static str, BoxError>> + Send + 'static) -> Body {
    let first = stream::iter([Ok("first")]);
    Body::from_stream(first.chain(chunks))
}

async fn stream(State(app): State<App>, tasks: BackgroundTasks) -> Body {
    app.leave_task(&tasks);
    chunks(app.go_on().map(|()| Ok("last")).into_stream())
}

async fn fails(State(app): State<App>, tasks: BackgroundTasks) -> Body {
    app.leave_task(&tasks);
    chunks(app.go_on().map(|()| Err("broken".into())).into_stream())
}

async fn endless(State(app): State<App>, tasks: BackgroundTasks) -> Response {
    app.leave_task(&tasks);
    let body = chunks(stream::pending().take_until(tasks.stopping()));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

async fn upload(State(app): State<App>, tasks: BackgroundTasks, request: Request) -> Response {
    let mut chunks = request.into_body().into_data_stream();
    let mut bytes = 0;
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) if bytes == 0 => {
                app.tell(Event::Upload);
                bytes = chunk.len();
            }
            Ok(chunk) => bytes += chunk.len(),
            Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        }
    }
    app.leave_task(&tasks);
    format!("{bytes} bytes").into_response()
}

/// Upgrades to a WebSocket whose conversation is a task of the supervisor.
async fn socket(
    State(app): State<App>,
    tasks: BackgroundTasks,
    upgrade: WebSocketUpgrade,
) -> Response {
    app.leave_task(&tasks);
    let (sender, socket) = oneshot::channel();
    let conversing = app.clone();
    let conversation = Task::fallible(async move { converse(socket.await?, conversing).await });
    match app.supervisor().spawn(conversation.named("conversation")) {
        Ok(_handle) => upgrade.on_upgrade(|socket| async {
            let _ = sender.send(socket);
        }),
        Err(_refused) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Greets the client, closes the WebSocket when the process stops, and adds a task at the end.
async fn converse(mut socket: WebSocket, app: App) -> Result<(), BoxError> {
    socket.send(Message::Text("hello".into())).await?;
    app.supervisor().stopping().await;
    socket.send(Message::Close(None)).await?;
    // The client answers the close.
    while let Some(message) = socket.recv().await {
        message?;
    }
    defer(async move { app.tell(Event::Conversation) })?;
    Ok(())
}
