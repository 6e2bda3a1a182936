//! [`Queued`]: a task that waits to run.

use crate::{
    supervisor::{Acquire, TaskGuard},
    task::Task,
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

    /// Takes a permit, or the last place in the queue for one.
    ///
    /// This is done when the task becomes ready, and not when it first runs, because the runtime
    /// decides which task runs first.
    #[inline]
    pub(super) fn acquire(&mut self) {
        let (supervisor, limit) = (self.guard.supervisor(), self.task.shared_limit());
        if limit.is_none() && !supervisor.limits_tasks() {
            return;
        }
        let falls_back = self.task.has_fallback() && supervisor.is_cancelled();
        self.acquire = if falls_back || self.task.is_fallback() {
            Acquire::UNLIMITED
        } else {
            let has_request = self.guard.end().is_some();
            supervisor.acquire(limit, has_request, self.task.is_blocking())
        };
    }
}
