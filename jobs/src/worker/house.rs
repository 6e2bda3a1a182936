//! What a worker does beside jobs: it deletes old archived jobs, and measures the queue.

use std::time::Duration;

use tokio::time::sleep;

use crate::{backoff::jitter, meter, queue::Inner};

/// Never ends.
pub(super) async fn keep(inner: &Inner, keep: Option<Duration>) {
    const PURGE: Duration = Duration::from_hours(1);
    // Workers that start together do not delete together.
    let mut until_purge = jitter(Duration::from_mins(1));
    loop {
        meter::depth(inner).await;
        let pause = until_purge.min(meter::INTERVAL);
        sleep(pause).await;
        until_purge -= pause;
        if until_purge.is_zero() {
            until_purge = PURGE;
            if let Some(keep) = keep {
                while matches!(inner.engine.purge(&inner.name, keep).await, Ok(10_000..)) {}
            }
        }
    }
}
