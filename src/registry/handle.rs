//! [`TaskHandle`]: awaits or aborts one task.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::state::RequestState;
use crate::{
    supervisor::Key,
    task::{Outcome, Refused, Task},
};

/// Awaits or aborts one task. Dropping the handle leaves the task alone.
///
/// # Cancel safety
///
/// You can drop the future of a `&mut` borrow at any time and await the handle again, until it has
/// returned the outcome.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use tower_background::{Outcome, Supervisor};
///
/// let handle = Supervisor::new().spawn(std::future::pending::<()>()).unwrap();
/// handle.abort();
/// assert!(matches!(handle.await, Outcome::Aborted));
/// # }
/// ```
#[must_use = "drop the handle if you do not want to await or abort the task; `tasks.add(..)` returns no handle"]
pub struct TaskHandle {
    state: Arc<RequestState>,
    key: Key,
    outcome: oneshot::Receiver<Outcome>,
}

impl TaskHandle {
    pub(super) fn add(state: &Arc<RequestState>, task: Task) -> Result<Self, Refused> {
        let (sender, outcome) = oneshot::channel();
        let key = state.add(task, Some(sender))?;
        Ok(Self {
            state: Arc::clone(state),
            key,
            outcome,
        })
    }

    /// Aborts the task, wherever it stands. Its outcome is [`Outcome::Aborted`], unless it has
    /// ended already.
    ///
    /// A blocking function that runs cannot be aborted: its context is cancelled, and it may still
    /// run.
    pub fn abort(&self) {
        let waiting = self
            .state
            .take_queued(|queued| queued.guard.key() == self.key);
        if waiting.is_empty() {
            self.state.supervisor().abort_task(self.key);
        }
    }
}

impl Future for TaskHandle {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // The guard of a task always sends the outcome.
        Pin::new(&mut self.outcome)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or(Outcome::Aborted))
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").finish_non_exhaustive()
    }
}
