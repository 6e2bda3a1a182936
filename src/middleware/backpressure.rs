//! Backpressure: a service waits while its supervisor has `max_pending` tasks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::futures::OwnedNotified;

use crate::{registry::BackgroundTasks, supervisor::Supervisor};

/// The wait of one service. A clone of the service has not started to wait.
#[derive(Debug, Default)]
pub(super) struct Backpressure {
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

impl Backpressure {
    /// Returns `Ready` when the supervisor has fewer tasks than `max_pending`.
    #[inline]
    pub(super) fn poll(&mut self, supervisor: &Supervisor, cx: &mut Context<'_>) -> Poll<()> {
        if !supervisor.limits_requests() {
            return Poll::Ready(());
        }
        self.poll_limited(supervisor, cx)
    }

    fn poll_limited(&mut self, supervisor: &Supervisor, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = supervisor.wait_for_capacity() {
            if is_inside(supervisor) {
                break;
            }
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(next));
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        self.waiting = None;
        Poll::Ready(())
    }
}

/// Returns whether the caller is a request or a task of the same supervisor. It would wait for
/// itself.
fn is_inside(supervisor: &Supervisor) -> bool {
    BackgroundTasks::current().is_some_and(|tasks| tasks.state().belongs_to(supervisor))
}

impl Clone for Backpressure {
    fn clone(&self) -> Self {
        Self::default()
    }
}
