//! Runs the tasks of a request one after the other.

use std::{collections::VecDeque, sync::Arc};

use tokio::{runtime::Handle, task::coop::consume_budget};

use super::{
    queued::Queued,
    state::{Inner, RequestState},
};
use crate::{
    supervisor::Supervisor,
    task::{Order, Outcome},
};

impl RequestState {
    /// Starts the tasks of a sequence.
    pub(super) fn start_sequence(self: &Arc<Self>, tasks: Vec<Queued>, after_write: bool) {
        let mut tasks = VecDeque::from(tasks);
        let mut inner = self.lock();
        // Tasks that were added meanwhile come after these.
        tasks.append(&mut inner.queue);
        inner.queue = tasks;
        let driver = inner.start_driver(&self.supervisor);
        drop(inner);
        if let Some((first, runtime)) = driver {
            self.spawn_driver(runtime, first, after_write);
        }
        if self.supervisor.is_cancelled() {
            self.start_fallbacks();
        }
    }

    /// Spawns the driver of a sequence.
    pub(super) fn spawn_driver(
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
    pub(super) fn start_driver(
        &mut self,
        supervisor: &Supervisor,
    ) -> Option<(Queued, Option<Handle>)> {
        let first = self.queue.pop_front();
        self.has_driver = first.is_some();
        first.map(|first| (first, self.runtime(supervisor)))
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
                let Queued {
                    task, mut guard, ..
                } = queued;
                drop(task);
                guard.finish(Outcome::Skipped);
            } else if self
                .state
                .spawn(&runtime, queued, after_write)
                .await
                .unwrap_or(false)
            {
                self.state.lock().has_failed = true;
            }
            after_write = false;
            next = self.state.next_in_sequence();
            if let Some(next) = &mut next {
                self.state.acquire(next);
            }
        }
        self.has_ended = true;
    }

    fn skips_rest(&self) -> bool {
        let inner = self.state.lock();
        inner.order == Order::FailFast && inner.has_failed
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut inner = self.state.lock();
            inner.has_driver = false;
            let tasks = std::mem::take(&mut inner.queue);
            drop(inner);
            drop(tasks);
        }
    }
}
