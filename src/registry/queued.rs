//! [`Queued`]: a task that waits to run.

use crate::{
    supervisor::{Acquire, TaskGuard},
    task::{Outcome, Task},
};

/// A task that waits to run. The fields are dropped in this order: the guard counts the task when
/// its work is dropped, and then its permits are given back.
pub(super) struct Queued {
    pub(super) task: Task,
    pub(super) guard: TaskGuard,
    /// Permits, or a place in the queue for them, once the task may run.
    pub(super) acquire: Acquire,
}

impl Queued {
    #[inline]
    pub(super) const fn new(task: Task, guard: TaskGuard) -> Self {
        Self {
            task,
            guard,
            acquire: Acquire::UNLIMITED,
        }
    }

    /// Ends a task that has not run: drops the work, and then gives the task its outcome.
    pub(super) fn finish(mut self, outcome: Outcome) {
        drop(self.task);
        self.guard.finish(outcome);
    }

    /// Puts the fallback of the task in its place. Returns the task, to be dropped when no lock is
    /// held.
    #[cold]
    pub(super) fn replace_by_fallback(&mut self) -> Option<Task> {
        let fallback = self.task.take_fallback()?;
        Some(std::mem::replace(&mut self.task, fallback))
    }
}
