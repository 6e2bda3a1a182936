//! Starts tasks before the end of their response: after `start_within`, and in a shutdown.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::{
    queued::Queued,
    state::{Inner, RequestState},
};
use crate::{
    response::{RequestInfo, ResponseEnd, ResponseHead},
    supervisor::{Owner, Phase},
};

impl RequestState {
    /// Notes the head of the response. From now on tasks can start before the end.
    pub(crate) fn note_head(self: &Arc<Self>, head: ResponseHead) {
        let mut inner = self.lock();
        inner.head = Some(head);
        self.note_responded();
        if self.supervisor.config().start_within.is_some() {
            self.arm_timer(&mut inner);
        }
        drop(inner);
        if self.supervisor.is_cancelled() {
            self.start_fallbacks();
        }
    }

    /// Starts the tasks without waiting for the end of the response.
    fn start_early(self: &Arc<Self>) {
        let mut inner = self.lock();
        if let Some(end) = self.end_so_far(&mut inner) {
            self.start(inner, Some(end), Instant::now(), false);
        }
    }

    /// Starts the timer of `start_within`, if there are deferred tasks and a head.
    #[cold]
    pub(super) fn arm_timer(self: &Arc<Self>, inner: &mut Inner) {
        let has_timer = inner.rare.as_ref().is_some_and(|rare| rare.timer.is_some());
        if inner.has_started || inner.deferred.is_empty() || has_timer {
            return;
        }
        let Some(deadline) = self.start_deadline(inner) else {
            return;
        };
        let Some(runtime) = inner.runtime(&self.supervisor) else {
            return;
        };
        let state = Arc::downgrade(self);
        let timer = runtime.spawn(async move {
            sleep_until(deadline).await;
            if let Some(state) = state.upgrade() {
                state.start_early();
            }
        });
        inner.rare.get_or_insert_default().timer = Some(timer.abort_handle());
    }

    /// Starts the shutdown fallbacks of tasks that wait, as far as their conditions can be judged.
    #[cold]
    pub(super) fn start_fallbacks(self: &Arc<Self>) {
        let has_fallback =
            |queued: &Queued| queued.task.has_fallback() || queued.task.is_fallback();
        let mut inner = self.lock();
        if !inner.waiting().any(has_fallback) {
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
        let Some(end) = self.end_so_far(&mut inner) else {
            return;
        };
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
    fn has_request(&self) -> bool {
        self.head.is_some()
    }

    fn is_admitted(&self) -> bool {
        self.admitted
    }

    fn request(&self) -> Option<RequestInfo> {
        self.request()
    }

    fn end(&self) -> Option<Arc<ResponseEnd>> {
        self.shared_end()
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
