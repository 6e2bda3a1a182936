//! The supervisor that is being shown, and the routes below its layer. After a shutdown the next one takes its place.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Router, error_handling::HandleErrorLayer, http::StatusCode};
use serde_json::{Value, json};
use tower::{BoxError, ServiceBuilder};
use tower_background::{BackgroundLayer, Supervisor};

use crate::{
    demos,
    news::News,
    reporter::{Reporter, running},
};

pub(crate) const GRACE: Duration = Duration::from_millis(1200);

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
        self.scene.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(crate) fn router(&self) -> Router {
        self.scene.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Puts a new supervisor in the place of one that was shut down. The listener, and the page, stay.
    pub(crate) fn restart(&self) {
        let next = scene(&self.news);
        *self.scene.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.news.tell("restarted", json!({}));
    }

    /// The figures, and the tasks that have not ended.
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
        .observer(Reporter(Arc::clone(news)))
        .build();
    // With `max_pending` tasks left, the service is not ready; what is outside of the layer decides what that means.
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |_: BoxError| (StatusCode::SERVICE_UNAVAILABLE, "too much work is left\n")))
        .load_shed()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    (supervisor, demos::router(Arc::clone(news)).layer(layers))
}
