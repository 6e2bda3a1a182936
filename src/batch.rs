//! The tasks that were released together, and the one tokio task that starts them.
//!
//! A response is released while the server holds its last bytes, just before they are written. A runner that yields once
//! comes to its tasks after the server's own task has run on, so after the write as a rule; tasks that were spawned from
//! the drop of the body would be taken by other workers before it.

use std::{future::poll_fn, pin::Pin, task::Poll};

use tokio::runtime::Handle;

use crate::{
    job::{Job, Queued},
    order::Order,
    outcome::Outcome,
    registry::{Collected, CollectedIter},
    tasks::BackgroundTasks,
};

/// The tasks that were released together, or one that was added later.
pub(crate) struct Batch {
    tasks: BackgroundTasks,
    order: Order,
    /// Whether the tasks were added after the release.
    late: bool,
    /// Whether the response was still open.
    unfinished: bool,
    /// What is left to start; a sequence is left in the registry, where later tasks join it.
    together: CollectedIter,
    /// Whether nothing was left when it was last looked for. What joins the sequence after that has another runner.
    at_end: bool,
}

impl Batch {
    pub(crate) fn new(tasks: BackgroundTasks, together: Collected, order: Order, late: bool) -> Self {
        let unfinished = !tasks.exchange().is_over();
        Self { tasks, order, late, unfinished, together: together.into_iter(), at_end: false }
    }

    /// Hands the tasks to a runtime. If that has ended they are cancelled.
    pub(crate) fn spawn(self, runtime: &Handle) {
        drop(runtime.spawn(self.run()));
    }

    async fn run(mut self) {
        // Nothing is being written for a late task, and tokio wakes what yields in one turn last to first.
        if !self.late {
            tokio::task::yield_now().await;
        }
        match self.order {
            Order::Concurrent => self.run_together().await,
            Order::Sequential => while self.run_next().await.is_some() {},
            Order::FailFast => {
                while let Some(failed) = self.run_next().await {
                    if failed {
                        return self.end_rest(|| Outcome::Skipped);
                    }
                }
            }
        }
    }

    /// Polls each task once in the order added, and makes each that goes on a tokio task of its own; the first of these goes
    /// on in this one. Most tasks that only hand something over end at their first poll, and need none.
    async fn run_together(&mut self) {
        let mut first = None;
        while let Some(job) = self.next() {
            let Ok(running) = first_poll(job).await else { continue };
            if first.is_none() {
                first = Some(running);
            } else {
                drop(tokio::spawn(running.run()));
            }
        }
        if let Some(first) = first {
            go_on(first).await;
        }
    }

    /// Runs the next task of a sequence, and says whether it failed.
    async fn run_next(&mut self) -> Option<bool> {
        Some(match first_poll(self.next()?).await {
            Ok(running) => go_on(running).await,
            Err(failed) => failed,
        })
    }

    fn next(&mut self) -> Option<Job> {
        if self.at_end {
            return None;
        }
        let task = match self.order {
            Order::Concurrent => self.together.next(),
            Order::Sequential | Order::FailFast => self.tasks.next_in_sequence(),
        };
        self.at_end = task.is_none();
        task.map(|task| Job::new(task, self.tasks.clone(), self.unfinished))
    }

    fn end_rest(&mut self, outcome: impl Fn() -> Outcome) {
        while let Some(job) = self.next() {
            job.end(outcome());
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Finds tasks only if nothing will run them: there is no runtime, or it went down.
        self.end_rest(|| Outcome::Cancelled);
    }
}

/// Polls a task once. It is over by that, and failed or not, or goes on.
async fn first_poll(job: Job) -> Result<Queued, bool> {
    let mut job = Some(job);
    poll_fn(|cx| match job.take() {
        Some(job) => Poll::Ready(job.line_up().and_then(|queued| queued.poll_first(cx))),
        None => Poll::Pending,
    })
    .await
}

/// Runs a task to its end, on the heap: the runner of tasks that end at once is small.
fn go_on(running: Queued) -> Pin<Box<dyn Future<Output = bool> + Send>> {
    Box::pin(running.run())
}
