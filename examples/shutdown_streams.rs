//! An axum server with endless streams, web sockets and uploads that stops in order at SIGTERM.
//!
//! Start it with `cargo run --example shutdown_streams -- 3000` and open `/events`, `/socket`, or
//! send a body to `/upload`. Then send SIGTERM with `kill`. The process ends when all of them have
//! ended. At the latest it ends after ten seconds for the server, ten for the tasks, and two more to
//! stop what is left.

use std::{convert::Infallible, env, error::Error, pin::pin, process::ExitCode, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, Supervisor, Task, TaskContext, When, defer,
};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let port = env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    // Before the address is printed, so that no signal comes too early to be caught.
    let mut terminate = signal(SignalKind::terminate())?;
    println!("{}", listener.local_addr()?);

    let supervisor = Supervisor::new();
    let app = Router::new()
        .route("/events", get(events))
        .route("/socket", get(socket))
        .route("/upload", post(upload))
        .with_state(supervisor.clone())
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));

    // 1. The signal ends the streams and the WebSockets: they wait for `stopping`.
    let (stopping, signalled) = (supervisor.clone(), supervisor.clone());
    let stop = async move {
        let _ = terminate.recv().await;
        stopping.begin_shutdown();
    };
    // 2. The server takes no more requests, and waits for its responses. A client that does not
    //    read would hold it up for ever, so this stops waiting after the grace.
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop);
    let late = async move {
        signalled.stopping().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serving => served?,
        () = late => {}
    }
    // 3. The supervisor waits for WebSockets, and for the tasks of the responses.
    let report = supervisor.shutdown(GRACE).await;
    println!("{report}");
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A stream that would never end. `take_until` ends it when the process stops.
async fn events(tasks: BackgroundTasks) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stopping = tasks.stopping();
    tasks.add(async { println!("task: events") });
    let events = stream::once(async { Event::default().data("hello") }).chain(stream::pending());
    let goodbye = stream::once(async { Event::default().data("goodbye") });
    Sse::new(events.take_until(stopping).chain(goodbye).map(Ok))
}

/// Reads an upload to its end. The server lets it finish, also after the signal.
async fn upload(tasks: BackgroundTasks, body: Body) -> (StatusCode, String) {
    println!("an upload begins");
    let mut chunks = body.into_data_stream();
    let mut bytes = 0;
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => bytes += chunk.len(),
            Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
    tasks.add(
        Task::new(async move { println!("task: upload of {bytes} bytes") }).when(When::Success),
    );
    (StatusCode::CREATED, format!("{bytes} bytes"))
}

/// Spawns the conversation before the response, while the server still waits for this request.
async fn socket(upgrade: WebSocketUpgrade, State(supervisor): State<Supervisor>) -> Response {
    let (sender, socket) = oneshot::channel();
    let stopping = supervisor.stopping();
    let conversation = Task::with_context(|cx| async move {
        match socket.await {
            Ok(socket) => converse(socket, cx, stopping).await,
            Err(_) => Ok(()),
        }
    });
    match supervisor.spawn(conversation.named("conversation")) {
        Ok(_handle) => upgrade.on_upgrade(|socket| async {
            let _ = sender.send(socket);
        }),
        Err(_refused) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Greets the client, and closes the WebSocket when the process stops.
async fn converse(
    mut socket: WebSocket,
    cx: TaskContext,
    stopping: impl Future<Output = ()>,
) -> Result<(), BoxError> {
    socket.send(Message::Text("hello".into())).await?;
    let mut stopping = pin!(stopping);
    let mut is_closing = false;
    loop {
        tokio::select! {
            message = socket.recv() => if message.transpose()?.is_none() { break },
            () = &mut stopping, if !is_closing => {
                is_closing = true;
                socket.send(Message::Close(None)).await?;
            }
            () = cx.cancelled() => break,
        }
    }
    defer(async { println!("task: conversation") })?;
    Ok(())
}
