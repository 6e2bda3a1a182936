//! The supervisor that the page shows, and the routes below its layer. After a shutdown a new
//! supervisor replaces it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    error_handling::HandleErrorLayer,
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::Response,
};
use serde_json::{Value, json};
use tower::{BoxError, ServiceBuilder};
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor};

use crate::{
    demos,
    news::News,
    reporter::{Reporter, owner, running},
};

/// The limits are low, so that one click reaches them.
const MAX_CONCURRENT: usize = 3;
const MAX_BLOCKING: usize = 1;
const MAX_PENDING: usize = 8;

pub(crate) struct Stage {
    news: Arc<News>,
    scene: RwLock<(Supervisor, Router)>,
}

impl Stage {
    pub(crate) fn new(news: Arc<News>) -> Self {
        let scene = RwLock::new(scene(&news));
        Self { news, scene }
    }

    pub(crate) fn supervisor(&self) -> Supervisor {
        self.scene
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    pub(crate) fn router(&self) -> Router {
        self.scene
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone()
    }

    /// Replaces a supervisor that was shut down. The listener and the page stay.
    pub(crate) fn restart(&self) {
        let next = scene(&self.news);
        *self.scene.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.news.tell("restarted", json!({}));
    }

    /// Returns the statistics, and the tasks that have not ended.
    pub(crate) fn figures(&self) -> Value {
        let supervisor = self.supervisor();
        let stats = supervisor.stats();
        json!({
            "stats": {
                "deferred": stats.deferred,
                "queued": stats.queued,
                "running": stats.running,
                "succeeded": stats.succeeded,
                "failed": stats.failed,
                "panicked": stats.panicked,
                "timed_out": stats.timed_out,
                "aborted": stats.aborted,
                "removed": stats.removed,
                "skipped": stats.skipped,
                "duplicates": stats.duplicates,
                "fell_back": stats.fell_back,
                "refused": stats.refused,
            },
            "added": stats.added(),
            "tasks": supervisor.tasks().iter().map(running).collect::<Vec<_>>(),
        })
    }
}

fn scene(news: &Arc<News>) -> (Supervisor, Router) {
    let supervisor = Supervisor::builder()
        .max_concurrent(MAX_CONCURRENT)
        .max_blocking(MAX_BLOCKING)
        .max_pending(MAX_PENDING)
        .abort_after(Duration::from_millis(600))
        .capture(demos::User)
        .observer(Reporter(Arc::clone(news)))
        .build();
    // With `max_pending` tasks left the service is not ready, and `load_shed` turns that into an
    // error.
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |_: BoxError| {
            (StatusCode::SERVICE_UNAVAILABLE, "too many tasks are left\n")
        }))
        .load_shed()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let news = Arc::clone(news);
    let told =
        from_fn(move |tasks, request, next| tell_added(Arc::clone(&news), tasks, request, next));
    (supervisor, demos::router().layer(told).layer(layers))
}

/// Tells the page which tasks the handler has added.
async fn tell_added(
    news: Arc<News>,
    tasks: BackgroundTasks,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    for name in tasks.names() {
        let (task, request) = owner(name.as_deref(), Some(&path));
        news.tell("added", json!({ "task": task, "request": request }));
    }
    response
}
