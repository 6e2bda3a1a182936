//! Wakes the workers of this process.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

/// The workers of this process that wait for messages of one engine.
#[derive(Debug, Default)]
pub(super) struct Sleepers(Mutex<Vec<Weak<Notify>>>);

impl Sleepers {
    pub(super) fn add(&self) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        let mut sleepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.retain(|sleeper| sleeper.strong_count() > 0);
        sleepers.push(Arc::downgrade(&notify));
        notify
    }

    pub(super) fn wake(&self) {
        let sleepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for notify in sleepers.iter().filter_map(Weak::upgrade) {
            notify.notify_one();
        }
    }
}
