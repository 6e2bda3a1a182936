//! Backpressure: a service waits while its supervisor has as many tasks as it may have.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::futures::OwnedNotified;

use crate::{current, supervisor::Supervisor};

/// A service's wait for room. A clone of the service has not begun to wait.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Room {
    /// Ready when the supervisor has fewer tasks than `max_pending`.
    #[inline]
    pub(crate) fn poll(&mut self, supervisor: &Supervisor, cx: &mut Context<'_>) -> Poll<()> {
        if supervisor.ledger().is_limited() { self.poll_limited(supervisor, cx) } else { Poll::Ready(()) }
    }

    fn poll_limited(&mut self, supervisor: &Supervisor, cx: &mut Context<'_>) -> Poll<()> {
        let ledger = supervisor.ledger();
        loop {
            // The code of a request that was let in, and a task, are part of what would have to end first.
            if ledger.has_room() || current::current().is_some_and(|tasks| tasks.of(supervisor).is_some()) {
                self.waiting = None;
                return Poll::Ready(());
            }
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            } else {
                // Made before the figures are read again: a task that ends in between still wakes it.
                self.waiting = Some(Box::pin(ledger.room().notified_owned()));
            }
        }
    }
}

impl Clone for Room {
    fn clone(&self) -> Self {
        Self::default()
    }
}
