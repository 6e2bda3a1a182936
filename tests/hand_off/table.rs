//! A destination that a test holds, and servers whose jobs go to it.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::{
    Router,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use tokio::sync::{Semaphore, mpsc};
use tower::Service;
use tower_background::{BackgroundLayer, BoxError, HandOff, HandOffError, Receipt, Supervisor};

use crate::support::{Server, Witness, soon};

/// What has happened at the table, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A job has come, and is not yet written.
    Begun(&'static str),
    Written(&'static str),
    Released(&'static str),
}

/// A destination that notes its jobs, and waits for the test before each write.
#[derive(Clone)]
pub(crate) struct Table {
    events: mpsc::UnboundedSender<Event>,
    told: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>>,
    writes: Arc<Semaphore>,
    fails: Arc<Mutex<bool>>,
}

/// What the table fails with.
#[derive(Debug)]
pub(crate) struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table is full")
    }
}

impl Error for Full {}

/// A row that is held.
pub(crate) struct Row(Table, &'static str);

impl Receipt for Row {
    async fn release(self) -> Result<(), BoxError> {
        self.0.note(Event::Released(self.1));
        Ok(())
    }
}

impl Table {
    /// A table that writes at once.
    pub(crate) fn new() -> Self {
        let table = Self::closed();
        table.let_write(Semaphore::MAX_PERMITS);
        table
    }

    /// A table that writes what the test lets it.
    pub(crate) fn closed() -> Self {
        let (events, told) = mpsc::unbounded_channel();
        Self { events, told: Arc::new(tokio::sync::Mutex::new(told)), writes: Arc::new(Semaphore::new(0)), fails: Arc::default() }
    }

    pub(crate) fn let_write(&self, writes: usize) {
        self.writes.add_permits(writes);
    }

    /// Fails from now on.
    pub(crate) fn fail(&self) {
        *self.fails.lock().unwrap() = true;
    }

    /// Notes what else happens, in its place among the others.
    pub(crate) fn note(&self, event: Event) {
        self.events.send(event).expect("the table holds a receiver");
    }

    /// The next event.
    pub(crate) async fn next(&self) -> Event {
        soon(self.told.lock().await.recv()).await.expect("the table holds a sender")
    }

    /// The next jobs that are written, in the order of their text.
    pub(crate) async fn written(&self, jobs: usize) -> Vec<&'static str> {
        let mut written = Vec::new();
        while written.len() < jobs {
            if let Event::Written(job) = self.next().await {
                written.push(job);
            }
        }
        written.sort_unstable();
        written
    }

    /// Whether an event has come that `next` has not given.
    pub(crate) async fn has_more(&self) -> bool {
        !self.told.lock().await.is_empty()
    }

    pub(crate) fn lossy(&self) -> HandOff<&'static str> {
        HandOff::lossy(self.clone())
    }

    pub(crate) fn durable(&self) -> HandOff<&'static str> {
        HandOff::durable(self.clone())
    }

    pub(crate) fn held(&self) -> HandOff<&'static str> {
        HandOff::held(self.clone())
    }
}

impl Service<&'static str> for Table {
    type Response = Row;
    type Error = Full;
    type Future = Pin<Box<dyn Future<Output = Result<Row, Full>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Full>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: &'static str) -> Self::Future {
        let table = self.clone();
        Box::pin(async move {
            table.note(Event::Begun(job));
            table.writes.acquire().await.expect("it is never closed").forget();
            if *table.fails.lock().unwrap() {
                return Err(Full);
            }
            table.note(Event::Written(job));
            Ok(Row(table, job))
        })
    }
}

/// What a client gets whose job was not written.
#[expect(clippy::needless_pass_by_value, reason = "it is the function that a layer calls")]
pub(crate) fn unavailable(error: HandOffError) -> Response {
    let source = error.source().map(ToString::to_string);
    let text = format!("{}: {error} ({})", error.name().unwrap_or("unnamed"), source.unwrap_or_default());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Serves a router whose heads wait for its jobs.
pub(crate) async fn serve(supervisor: &Supervisor, router: Router) -> Server {
    let app = router.layer(BackgroundLayer::with(supervisor.clone()).hand_off(unavailable));
    Server::serve(app, supervisor.clone(), Witness::new()).await
}
