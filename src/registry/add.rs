//! Adds a task to a request: the one way into the task table.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    queued::Queued,
    state::{Inner, RequestState},
};
use crate::{
    response::RequestInfo,
    supervisor::{Extra, Key, NewTask, TaskGuard, TaskScope},
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
        mut task: Task,
        outcome: Option<oneshot::Sender<Outcome>>,
    ) -> Result<Key, Refused> {
        // Code of the user, so it runs without a lock.
        let extra = Extra::new(self.scope_of(&task), outcome);
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
        let new = NewTask {
            owner: Arc::downgrade(self) as _,
            has_request: self.has_request(),
            since: (!is_deferred).then(Instant::now),
            admitted: self.admitted,
            extra,
        };
        let waits = is_deferred || inner.order != Order::Concurrent;
        let (mut guard, is_closed) = match TaskGuard::enter(&self.supervisor, &task, new) {
            Ok(entered) => entered,
            Err(extra) => {
                drop(inner);
                drop(extra);
                return Err(self.refuse(task, gauge));
            }
        };
        if let Some(end) = inner.early_end.as_ref().filter(|_| !self.has_ended()) {
            guard.set_early_end(Arc::clone(end));
        }
        if let Some(reporter) = self.reporter(&mut inner) {
            guard.set_reporter(reporter);
        }
        let fallback = if is_closed {
            task.take_fallback()
        } else {
            None
        };
        let replaced = fallback.map(|fallback| std::mem::replace(&mut task, fallback));
        let key = guard.key();
        inner.note_runtime(&self.supervisor);
        let queued = Queued::new(task, guard);
        if waits {
            self.enqueue(inner, queued);
        } else {
            self.start_late(inner, queued);
        }
        drop(replaced);
        if is_closed || self.supervisor.is_cancelled() {
            self.start_fallbacks();
        }
        Ok(key)
    }

    /// Adds a task that waits for the start of the tasks, or for its turn in a sequence.
    fn enqueue(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, queued: Queued) {
        inner.queue.push_back(queued);
        let driver = if inner.has_started && !inner.has_driver {
            inner.start_driver(&self.supervisor)
        } else {
            None
        };
        if self.supervisor.config().start_within.is_some() {
            self.arm_timer(&mut inner);
        }
        drop(inner);
        if let Some((first, runtime)) = driver {
            self.spawn_driver(runtime, first, false);
        }
    }

    /// Starts a task that was added after the start of the tasks.
    fn start_late(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>, mut queued: Queued) {
        let runtime = inner.runtime(&self.supervisor);
        drop(inner);
        self.acquire(&mut queued);
        if let Some(runtime) = runtime {
            drop(self.spawn(&runtime, queued, false));
        }
    }

    /// Captures what surrounds the code that adds the task.
    #[inline]
    fn scope_of(&self, task: &Task) -> Option<TaskScope> {
        let config = self.supervisor.config();
        if config.captures.is_empty() && !TaskSpan::is_wanted() {
            return None;
        }
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
        TaskScope::new(span, captured)
    }

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
