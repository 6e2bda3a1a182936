//! The state of the application that every server runs, and what it tells the test.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{Router, body::Body, middleware::map_response, response::Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::{Semaphore, mpsc};
use tower_background::{BackgroundLayer, BackgroundTasks, ResponseEnd, Supervisor, Task, When};

use crate::routes;

/// What happened at one place.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// An upload has begun.
    Upload,
    /// The response body yielded a frame.
    Frame,
    /// The task of a request started, and saw this end.
    Task(String),
    /// The task started that a WebSocket conversation added at its end.
    Conversation,
}

/// Connects the applications of one server with the test.
struct Shared {
    events: mpsc::UnboundedSender<(&'static str, Event)>,
    go_on: Semaphore,
    may_end: Semaphore,
}

/// One application. A server of the matrix has one, and a proxy has a second one behind it.
#[derive(Clone)]
pub struct App {
    supervisor: Supervisor,
    place: &'static str,
    shared: Arc<Shared>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// The test's side of the applications.
#[derive(Debug)]
pub struct Control {
    app: App,
    events: mpsc::UnboundedReceiver<(&'static str, Event)>,
}

impl Control {
    /// Returns the next event and its place.
    ///
    /// # Panics
    ///
    /// If all applications are gone.
    pub async fn next(&mut self) -> (&'static str, Event) {
        let event = self.events.recv().await;
        event.expect("the control keeps an application")
    }

    /// Returns the next event, if it has already happened.
    pub fn try_next(&mut self) -> Option<(&'static str, Event)> {
        self.events.try_recv().ok()
    }

    /// Lets a response go on that has sent its first frame.
    pub fn go_on(&self) {
        self.app.shared.go_on.add_permits(1);
    }

    /// Lets all tasks end.
    pub fn let_tasks_end(&self) {
        self.app.shared.may_end.close();
    }
}

impl App {
    /// Creates the application, and what controls it.
    #[must_use]
    pub fn new() -> (Self, Control) {
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            events,
            go_on: Semaphore::new(0),
            may_end: Semaphore::new(0),
        };
        let app = Self {
            supervisor: Supervisor::new(),
            place: "",
            shared: Arc::new(shared),
        };
        let control = Control {
            app: app.clone(),
            events: receiver,
        };
        (app, control)
    }

    /// Creates the application behind this one, which is a proxy. It has a supervisor of its own.
    pub(crate) fn origin(&self) -> Self {
        Self {
            supervisor: Supervisor::new(),
            place: "origin",
            shared: Arc::clone(&self.shared),
        }
    }

    /// Returns the supervisor of the tasks.
    #[must_use]
    pub const fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    pub(crate) fn layer(&self) -> BackgroundLayer {
        BackgroundLayer::with_supervisor(self.supervisor.clone())
    }

    /// The application with the layer around it.
    pub(crate) fn layered(&self) -> Router {
        self.router().layer(self.layer())
    }

    /// The application without the layer.
    pub(crate) fn router(&self) -> Router {
        self.watched(routes::router(self.clone()))
    }

    /// Tells the test of each frame of each response.
    pub(crate) fn watched(&self, router: Router) -> Router {
        let app = self.clone();
        router.layer(map_response(move |response: Response| {
            let app = app.clone();
            async move { response.map(|body| Body::new(Watched { body, app })) }
        }))
    }

    pub(crate) fn tell(&self, event: Event) {
        // Nobody listens after the end of the test.
        let _ = self.shared.events.send((self.place, event));
    }

    /// Adds a task that tells what it sees, and ends when the test lets it.
    pub(crate) fn leave_task(&self, tasks: &BackgroundTasks) {
        let app = self.clone();
        let task = Task::with_context(move |cx| async move {
            app.tell(Event::Task(cx.end().map(describe).unwrap_or_default()));
            // An error says that the test has closed the semaphore: all tasks may end.
            let _ = app.shared.may_end.acquire().await;
        });
        tasks.add(task.when(When::Always));
    }

    /// Waits until the test lets a response go on.
    pub(crate) async fn go_on(self) {
        if let Ok(permit) = self.shared.go_on.acquire().await {
            permit.forget();
        }
    }
}

/// The kind of the end, and the gRPC status if there is one.
fn describe(end: &ResponseEnd) -> String {
    let kind = end.kind();
    end.grpc_status().map_or_else(
        || format!("{kind:?}"),
        |status| format!("{kind:?}, gRPC {status}"),
    )
}

/// A body that tells of each frame.
struct Watched {
    body: Body,
    app: App,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = frame {
            self.app.tell(Event::Frame);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
