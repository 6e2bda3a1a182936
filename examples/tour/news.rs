//! Sends each event to every open page, with the time of the server.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

/// How many pieces of news a page may be behind before it misses some.
const BACKLOG: usize = 1024;

pub(crate) struct News {
    started: Instant,
    pages: Sender<Value>,
    closed: CancellationToken,
}

impl Default for News {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            pages: broadcast::channel(BACKLOG).0,
            closed: CancellationToken::new(),
        }
    }
}

impl News {
    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1e3
    }

    /// Tells that something happened now. `fact` is an object, which gets the time.
    pub(crate) fn tell(&self, what: &str, mut fact: Value) {
        fact["what"] = json!(what);
        fact["at"] = json!(self.now());
        // Nobody may be looking.
        let _ = self.pages.send(fact);
    }

    pub(crate) fn follow(&self) -> Receiver<Value> {
        self.pages.subscribe()
    }

    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}
