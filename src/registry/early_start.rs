//! Starts tasks before the end of their response: after `start_within`, and in a shutdown.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::{Duration, Instant, sleep_until};

use super::{
    queued::Queued,
    state::{Inner, RequestState},
};
use crate::{
    response::{RequestInfo, ResponseEnd},
    supervisor::{Owner, Phase},
};

impl RequestState {
    /// Notes the head of the response. From now on tasks can start before the end.
    pub(crate) fn note_head(
        self: &Arc<Self>,
        status: StatusCode,
        is_grpc: bool,
        time_to_head: Duration,
    ) {
        self.set_head(status, is_grpc, time_to_head);
        if self.supervisor.config().start_within.is_some() {
            self.arm_timer(&mut self.lock());
        }
        if self.supervisor.is_cancelled() {
            self.start_fallbacks();
        }
    }

    /// Starts the tasks although the response is open.
    fn start_unfinished(self: &Arc<Self>) {
        if let Some(request) = self.request() {
            let end = Arc::new(self.unfinished_end(request));
            self.start(self.lock(), Some(end), Instant::now(), false);
        }
    }

    /// Starts the timer of `start_within`, if there are deferred tasks and a head.
    pub(super) fn arm_timer(self: &Arc<Self>, inner: &mut Inner) {
        if inner.has_started || inner.queue.is_empty() || inner.timer.is_some() {
            return;
        }
        let Some(deadline) = self.start_deadline() else {
            return;
        };
        let Some(runtime) = inner.runtime(&self.supervisor) else {
            return;
        };
        let state = Arc::downgrade(self);
        let timer = runtime.spawn(async move {
            sleep_until(deadline).await;
            if let Some(state) = state.upgrade() {
                state.start_unfinished();
            }
        });
        inner.timer = Some(timer.abort_handle());
    }

    /// Starts the shutdown fallbacks of tasks that wait, as far as their conditions can be judged.
    pub(super) fn start_fallbacks(self: &Arc<Self>) {
        let has_fallback =
            |queued: &Queued| queued.task.has_fallback() || queued.task.is_fallback();
        let mut inner = self.lock();
        if !inner.queue.iter().any(has_fallback) {
            return;
        }
        let runtime = inner.runtime(&self.supervisor);
        if inner.has_started {
            // They waited for their turn in a sequence.
            let mut tasks = inner.take_queued(has_fallback);
            drop(inner);
            for queued in &mut tasks {
                self.acquire(queued);
            }
            return self.spawn_all(tasks, runtime, false);
        }
        let Some(request) = self.request_now(&inner) else {
            return;
        };
        let end = Arc::new(self.unfinished_end(request));
        let mut tasks = inner.take_queued(|queued| {
            // A task whose condition cannot hold starts as well, to be skipped.
            has_fallback(queued) && queued.task.condition().is_decided(&end)
        });
        drop(inner);
        self.allow(&mut tasks, Some(&end), Instant::now(), false);
        self.spawn_all(tasks, runtime, false);
    }
}

impl Owner for RequestState {
    fn request(&self) -> Option<RequestInfo> {
        self.request()
    }

    fn end(&self) -> Option<Arc<ResponseEnd>> {
        self.end().cloned()
    }

    fn shut_down(self: Arc<Self>, phase: Phase) {
        if phase == Phase::Sealed {
            // The guards count the tasks as aborted. Tasks that were added after the shutdown run
            // their fallback.
            drop(self.take_queued(|queued| !queued.task.is_fallback()));
        } else {
            self.start_fallbacks();
        }
    }
}
