//! What ends the work of a task from outside: a timeout, and the end of a shutdown.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use crate::{outcome::Outcome, panics::caught, supervisor::Supervisor};

/// Polls the future until it is ready, or the supervisor aborts what runs.
pub(crate) async fn unless_aborted<F: Future>(supervisor: &Supervisor, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut aborted = pin!(supervisor.aborted());
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        // A future that is ready at once never comes here, and costs nothing for it.
        Poll::Pending => aborted.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Polls the future until it is ready, or its time is over.
pub(crate) async fn within<F: Future>(timeout: Duration, future: F) -> Result<F::Output, Outcome> {
    // A runtime without a time driver panics at the timer, not at the task.
    match caught(|| tokio::time::timeout(timeout, future)) {
        Ok(timed) => timed.await.map_err(|_| Outcome::TimedOut),
        Err(message) => Err(Outcome::Panicked(message)),
    }
}
