//! Runs the tasks of a request one after the other.

use std::{collections::VecDeque, sync::Arc};

use tokio::{runtime::Handle, task::coop::consume_budget};

use super::{
    queued::Queued,
    state::{Inner, RequestState, SequenceState},
};
use crate::{
    supervisor::Supervisor,
    task::{Order, Outcome},
    util::sync::MutexGuard,
};

impl RequestState {
    /// Starts the tasks of a sequence.
    #[cold]
    pub(super) fn start_sequence(self: &Arc<Self>, tasks: Vec<Queued>, after_write: bool) {
        let mut tasks = VecDeque::from(tasks);
        let mut inner = self.lock();
        // Tasks that were added meanwhile come after these.
        let waiting = &mut inner.sequence().waiting;
        tasks.append(waiting);
        *waiting = tasks;
        let driver = inner.start_driver(&self.supervisor);
        drop(inner);
        if let Some((first, runtime)) = driver {
            self.spawn_driver(runtime, first, after_write);
        }
        if self.supervisor.is_cancelled() {
            self.start_fallbacks();
        }
    }

    /// Adds a task to a sequence that has started.
    #[cold]
    pub(super) fn add_to_sequence(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        queued: Queued,
    ) {
        let sequence = inner.sequence();
        sequence.waiting.push_back(queued);
        let driver = if sequence.has_driver {
            None
        } else {
            inner.start_driver(&self.supervisor)
        };
        drop(inner);
        if let Some((first, runtime)) = driver {
            self.spawn_driver(runtime, first, false);
        }
    }

    /// Spawns the driver of a sequence.
    fn spawn_driver(
        self: &Arc<Self>,
        runtime: Option<Handle>,
        mut first: Queued,
        after_write: bool,
    ) {
        let sequence = Sequence {
            state: Arc::clone(self),
            has_ended: false,
        };
        self.acquire(&mut first);
        if let Some(runtime) = runtime {
            drop(runtime.spawn(sequence.drive(first, runtime.clone(), after_write)));
        }
    }
}

impl Inner {
    /// Returns the first task of a sequence, for a new driver on this runtime.
    fn start_driver(&mut self, supervisor: &Supervisor) -> Option<(Queued, Option<Handle>)> {
        let first = self.sequence().next()?;
        Some((first, self.runtime(supervisor)))
    }
}

impl SequenceState {
    /// Returns the next task. After the last one, the next task that is added needs a new driver.
    fn next(&mut self) -> Option<Queued> {
        let next = self.waiting.pop_front();
        self.has_driver = next.is_some();
        next
    }
}

/// A sequence that a driver runs. Its drop drops the tasks that wait in it, because no other driver
/// would run them.
struct Sequence {
    state: Arc<RequestState>,
    has_ended: bool,
}

impl Sequence {
    /// Runs the tasks of a sequence one after the other, each as a separate tokio task.
    async fn drive(mut self, first: Queued, runtime: Handle, mut after_write: bool) {
        let mut next = Some(first);
        while let Some(queued) = next.take() {
            consume_budget().await;
            if self.skips_rest() {
                queued.finish(Outcome::Skipped);
            } else if self
                .state
                .spawn(&runtime, queued, after_write)
                .await
                .unwrap_or(false)
            {
                self.state.lock().sequence().has_failed = true;
            }
            after_write = false;
            next = self.state.lock().sequence().next();
            if let Some(next) = &mut next {
                self.state.acquire(next);
            }
        }
        self.has_ended = true;
    }

    fn skips_rest(&self) -> bool {
        let mut inner = self.state.lock();
        inner.order == Order::FailFast && inner.sequence().has_failed
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut inner = self.state.lock();
            let sequence = inner.sequence();
            sequence.has_driver = false;
            let waiting = std::mem::take(&mut sequence.waiting);
            drop(inner);
            drop(waiting);
        }
    }
}
