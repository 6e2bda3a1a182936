//! The cases that run on every server.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use crate::{
    app::{App, Control, Event},
    client::{Client, Messages, Protocol},
    servers::{Running, Server},
};

/// The upper bound for anything that is waited for. Nothing waits for it in a run that passes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What happens to a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// A short response, which the client reads.
    Success,
    /// A stream of two messages. The second one comes when the client has the first.
    Stream,
    /// A stream that fails after its first message.
    Fails,
    /// A client that leaves a silent stream after its first message.
    Leaves,
    /// An endless stream that is open at the shutdown.
    StreamAtShutdown,
    /// An upload that is open at the shutdown.
    UploadAtShutdown,
    /// A WebSocket that is open at the shutdown.
    SocketAtShutdown,
}

impl Case {
    /// All cases, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::Stream,
        Self::Fails,
        Self::Leaves,
        Self::StreamAtShutdown,
        Self::UploadAtShutdown,
        Self::SocketAtShutdown,
    ];

    /// The name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Stream => "stream",
            Self::Fails => "stream fails",
            Self::Leaves => "client leaves",
            Self::StreamAtShutdown => "shutdown: stream",
            Self::UploadAtShutdown => "shutdown: upload",
            Self::SocketAtShutdown => "shutdown: WebSocket",
        }
    }

    /// Whether the client of this server can do this.
    #[must_use]
    pub fn is_possible(self, server: &Server) -> bool {
        match self {
            Self::SocketAtShutdown => {
                matches!(server.protocol, Protocol::Http1 | Protocol::Http2) && !server.is_proxy()
            }
            Self::UploadAtShutdown => server.protocol != Protocol::GrpcWeb,
            _ => true,
        }
    }
}

/// Reads the rest of the messages.
async fn rest(messages: Messages) -> Result<Bytes, BoxError> {
    let messages: Vec<Bytes> = messages.try_collect().await?;
    Ok(messages.concat().into())
}

/// A server, its client, and what they tell.
struct Run<'a> {
    server: &'a Server,
    app: App,
    control: Control,
    client: Client,
    stop: CancellationToken,
    running: Running,
    /// The end that the task at each place saw.
    ends: Vec<(&'static str, String)>,
}

/// Runs a case, and returns what the tasks saw: a cell of the table.
///
/// # Panics
///
/// If the client, the tasks or the supervisor see something that is not in order.
pub async fn run(server: &Server, case: Case) -> String {
    if !case.is_possible(server) {
        return "-".to_owned();
    }
    let running = timeout(PATIENCE, Run::start(server).then(|run| run.case(case)));
    running
        .await
        .unwrap_or_else(|_| panic!("{server:?}, {case:?}: something does not come to its end"))
}

impl<'a> Run<'a> {
    async fn start(server: &'a Server) -> Self {
        let (app, control) = App::new();
        let stop = CancellationToken::new();
        let running = server.serve(app.clone(), stop.clone()).await;
        let running = running.expect("the server starts");
        let client = Client::new(running.target.clone(), server.protocol).await;
        Self {
            server,
            app,
            control,
            client: client.expect("the client connects"),
            stop,
            running,
            ends: Vec::new(),
        }
    }

    async fn case(mut self, case: Case) -> String {
        match case {
            Case::Success => {
                let messages = self.open("success").await;
                let text = rest(messages).await.expect("the response is whole");
                assert_eq!(text, "hello");
            }
            Case::Stream => {
                let messages = self.open_stream("stream").await;
                self.control.go_on();
                let rest = rest(messages).await.expect("the stream ends well");
                assert_eq!(rest, "last");
            }
            Case::Fails => {
                let messages = self.open_stream("fails").await;
                self.control.go_on();
                rest(messages)
                    .await
                    .expect_err("the client sees that the stream failed");
            }
            Case::Leaves => drop(self.open_stream("endless").await),
            Case::StreamAtShutdown => {
                let messages = self.open_stream("endless").await;
                self.begin_shutdown();
                let rest = rest(messages).await.expect("the stream ends well");
                assert_eq!(rest, "");
            }
            Case::UploadAtShutdown => self.upload().await,
            Case::SocketAtShutdown => self.socket().await,
        }
        self.tasks().await;
        self.finish(case).await
    }

    async fn open(&self, name: &str) -> Messages {
        self.client.open(name).await.expect("the server answers")
    }

    /// Opens a stream, and reads its first message. No task runs then.
    async fn open_stream(&mut self, name: &str) -> Messages {
        let mut messages = self.open(name).await;
        let first = messages.next().await.expect("the stream is open");
        assert_eq!(first.expect("the stream is in order"), "first");
        while let Some((place, event)) = self.control.try_next() {
            assert_eq!(event, Event::Frame, "{place:?}: the response is not over");
        }
        let stats = self.app.supervisor().stats();
        assert_eq!((stats.deferred, stats.running), (1, 0));
        messages
    }

    fn begin_shutdown(&self) {
        self.app.supervisor().begin_shutdown();
        self.stop.cancel();
    }

    /// Begins an upload, and sends its end after the shutdown has begun.
    async fn upload(&mut self) {
        let (parts, receiver) = mpsc::channel(1);
        let (app, stop, control) = (&self.app, &self.stop, &mut self.control);
        let sending = async move {
            parts.send("first").await.expect("the client sends it");
            while control.next().await.1 != Event::Upload {}
            app.supervisor().begin_shutdown();
            stop.cancel();
            parts.send("last").await.expect("the client sends it");
        };
        let (answer, ()) = tokio::join!(self.client.upload(receiver), sending);
        assert_eq!(answer.expect("the server answers"), "9 bytes");
    }

    /// Opens a WebSocket, whose conversation the shutdown ends.
    async fn socket(&mut self) {
        let mut socket = self.client.socket().await.expect("the server upgrades");
        let hello = socket.next().await.expect("the WebSocket is open");
        assert_eq!(hello.expect("it is in order").into_data(), "hello");
        self.tasks().await;
        assert_eq!(self.app.supervisor().open_responses(), 0);
        self.begin_shutdown();
        let close = socket.next().await.expect("the WebSocket is open");
        assert!(close.expect("it is in order").is_close());
        // The client answers the close while it is read. With TLS, the server then cuts the connection without an alert.
        while let Some(Ok(_)) = socket.next().await {}
        while self.control.next().await.1 != Event::Conversation {}
    }

    /// Waits for the task of each place. The client has all that it wants, and no task may end before that.
    async fn tasks(&mut self) {
        let places = if self.server.is_proxy() { 2 } else { 1 };
        while self.ends.len() < places {
            let (place, event) = self.control.next().await;
            let has_ended = self.ends.iter().any(|(ended, _)| *ended == place);
            assert!(!has_ended, "{place:?}: {event:?} comes after the task");
            if let Event::Task(end) = event {
                self.ends.push((place, end));
            }
        }
        self.control.let_tasks_end();
    }

    /// Stops the server in order, checks that nothing was lost, and returns the cell.
    async fn finish(mut self, case: Case) -> String {
        drop(self.client);
        self.app.supervisor().begin_shutdown();
        self.stop.cancel();
        let stopped = self
            .running
            .stopped
            .await
            .expect("the server does not panic");
        stopped.expect("the server stops in order");
        let report = self.app.supervisor().shutdown(PATIENCE).await;
        assert!(report.is_clean(), "{report:?}");
        let stats = self.app.supervisor().stats();
        let tasks = if case == Case::SocketAtShutdown { 3 } else { 1 };
        assert_eq!(
            (stats.added(), stats.succeeded),
            (tasks, tasks),
            "{stats:?}"
        );
        assert_eq!(
            (stats.refused, self.app.supervisor().open_responses()),
            (0, 0)
        );
        assert_eq!(
            self.control.try_next(),
            None,
            "nothing comes after the task"
        );
        self.ends.sort();
        let ends = self.ends.iter().map(|(place, end)| match *place {
            "" => end.clone(),
            place => format!("{place} {end}"),
        });
        ends.collect::<Vec<_>>().join("; ")
    }
}
