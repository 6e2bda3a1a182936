//! The tasks that were released together, and the one tokio task that starts them.
//!
//! A response is released while the server holds its last bytes, just before they are written. A runner that yields once
//! comes to its tasks after the server's own task has run on, so after the write as a rule; tasks that were spawned from
//! the drop of the body would be taken by other workers before it.

use std::vec;

use tokio::runtime::Handle;

use crate::{
    job::{Filed, Job},
    order::Order,
    outcome::Outcome,
    released::Released,
};

/// The tasks that were released together, or one that was added later.
pub(crate) struct Batch {
    release: Released,
    order: Order,
    /// Whether the tasks were added after the release.
    late: bool,
    /// What is left to start; a sequence is left in the registry, where later tasks join it.
    together: vec::IntoIter<Filed>,
}

impl Batch {
    /// Tasks that run beside each other.
    pub(crate) fn together(release: Released, tasks: Vec<Filed>, late: bool) -> Self {
        Self { release, order: Order::Concurrent, late, together: tasks.into_iter() }
    }

    /// The sequence that the registry holds.
    pub(crate) fn sequence(release: Released, order: Order, late: bool) -> Self {
        Self { release, order, late, together: Vec::new().into_iter() }
    }

    /// Hands the tasks to a runtime. Without one, or with one that has ended, they are cancelled.
    pub(crate) fn spawn(self, runtime: Option<&Handle>) {
        if let Some(runtime) = runtime {
            drop(runtime.spawn(self.run()));
        }
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

    async fn run_together(&mut self) {
        // Each takes its place, or its place in line, in the order added; the first runs here, as this is a tokio task already.
        let mut first = None;
        while let Some(job) = self.next() {
            let Ok(queued) = job.line_up() else { continue };
            if first.is_none() {
                first = Some(queued);
            } else {
                drop(tokio::spawn(queued.run()));
            }
        }
        if let Some(first) = first {
            first.run().await;
        }
    }

    /// Runs the next task of a sequence, and says whether it failed.
    async fn run_next(&mut self) -> Option<bool> {
        Some(match self.next()?.line_up() {
            Ok(queued) => queued.run().await,
            Err(failed) => failed,
        })
    }

    fn next(&mut self) -> Option<Job> {
        let filed = match self.order {
            Order::Concurrent => self.together.next(),
            Order::Sequential | Order::FailFast => self.release.tasks().next_in_sequence(),
        };
        filed.map(|filed| Job::new(self.release.clone(), filed))
    }

    fn end_rest(&mut self, outcome: impl Fn() -> Outcome) {
        while let Some(job) = self.next() {
            job.end_unstarted(outcome());
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Finds tasks only if nothing will run them: there is no runtime, or it went down.
        self.end_rest(|| Outcome::Cancelled);
    }
}
