//! Adds a task to a request: the one way into the task table.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    queued::Queued,
    state::{Inner, RequestState},
};
use crate::{
    response::RequestInfo,
    supervisor::{Key, TaskGuard, TaskScope},
    task::{Order, Outcome, Refused, Task},
    util::{
        TaskSpan, catch_and_log,
        metrics::{self, Gauge},
        sync::MutexGuard,
        trace,
    },
};

impl RequestState {
    /// Adds a task. It waits for the start of the tasks, or starts now if that has been.
    pub(super) fn add(
        self: &Arc<Self>,
        task: Task,
        outcome: Option<oneshot::Sender<Outcome>>,
    ) -> Result<Key, Refused> {
        // Code of the user, so it runs without a lock.
        let scope = self.scope_of(&task);
        let mut gauge = Gauge::Deferred;
        metrics::moved(None, Some(gauge), 1);

        let mut inner = self.lock();
        if metrics::is_wanted() && inner.has_started {
            drop(inner);
            metrics::moved(Some(gauge), Some(Gauge::Queued), 1);
            gauge = Gauge::Queued;
            // Tasks do not start twice, so the next look finds the same.
            inner = self.lock();
        }
        let is_deferred = !inner.has_started;
        let since = (!is_deferred).then(Instant::now);
        let entered = TaskGuard::enter(&self.supervisor, self, &task, since);
        let Some((mut guard, is_closed)) = entered else {
            drop(inner);
            drop(scope);
            return Err(self.refuse(task, gauge));
        };
        if scope.is_some() || outcome.is_some() || metrics::is_wanted() {
            guard.set_extra(scope, outcome);
        }
        let key = guard.key();
        let mut queued = Queued::new(task, guard);
        let replaced = if is_closed {
            queued.replace_by_fallback()
        } else {
            None
        };
        self.connect(&mut inner, &mut queued.guard);
        inner.note_runtime(&self.supervisor);
        if is_deferred {
            inner.deferred.push(queued);
            if self.supervisor.config().start_within.is_some() {
                self.arm_timer(&mut inner);
            }
            drop(inner);
        } else if inner.order == Order::Concurrent {
            self.start_late(inner, queued);
        } else {
            self.add_to_sequence(inner, queued);
        }
        drop(replaced);
        if is_closed || self.supervisor.is_cancelled() {
            self.start_fallbacks();
        }
        Ok(key)
    }

    /// Starts a task that was added after the start of the tasks.
    #[cold]
    fn start_late(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, mut queued: Queued) {
        let runtime = inner.runtime(&self.supervisor);
        drop(inner);
        self.acquire(&mut queued);
        if let Some(runtime) = runtime {
            drop(self.spawn(&runtime, queued, false));
        }
    }

    /// Returns what surrounds the code that adds the task.
    #[inline]
    fn scope_of(&self, task: &Task) -> Option<Arc<TaskScope>> {
        if self.supervisor.config().captures.is_empty() && !TaskSpan::is_wanted() {
            return None;
        }
        self.capture(task)
    }

    #[cold]
    fn capture(&self, task: &Task) -> Option<Arc<TaskScope>> {
        let config = self.supervisor.config();
        let mut captured = Vec::new();
        for capture in &config.captures {
            captured.extend(catch_and_log("the capture of a context", || {
                capture.capture()
            }));
        }
        let span = if TaskSpan::is_wanted() {
            let request = self.request();
            let request = RequestInfo::fields(request.as_ref());
            TaskSpan::new(task.name(), request, config.child_spans)
        } else {
            None
        };
        TaskScope::new(span, captured).map(Arc::new)
    }

    #[cold]
    fn refuse(&self, task: Task, gauge: Gauge) -> Refused {
        metrics::moved(Some(gauge), None, 1);
        metrics::ended(task.name(), "refused", Duration::ZERO, None);
        self.supervisor.refuse();
        Refused::new(task)
    }

    /// Logs a refused task, and drops it.
    pub(super) fn log_refused(&self, refused: Refused) {
        let task = refused.into_task();
        let request = self.request();
        trace::refused(task.name(), RequestInfo::fields(request.as_ref()));
        drop(task);
    }
}
