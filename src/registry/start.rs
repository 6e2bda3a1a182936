//! Starts the tasks of a request: the one place that spawns tasks.
//!
//! Each task becomes a separate tokio task. Several tasks that start together are spawned by a
//! short tokio task, the driver, so that one tokio task sits in the worker's own slot, and not
//! many. The driver ends when all are spawned.

use std::sync::Arc;

use http::Version;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinHandle, yield_now},
    time::Instant,
};

use super::{
    queued::Queued,
    run::run,
    state::{Inner, RequestState},
};
use crate::{
    response::{EndDetails, ResponseEnd},
    supervisor::{Acquire, TaskGuard},
    task::Order,
    util::{
        metrics::{self, Gauge},
        sync::MutexGuard,
    },
};

impl RequestState {
    /// The response has ended. Its tasks start, if they have not started before.
    pub(crate) fn finish(self: &Arc<Self>, details: impl FnOnce() -> EndDetails, now: Instant) {
        let mut inner = self.lock();
        // From now on the request does not hold the buffer of its connection.
        let Some(request) = inner.open.take() else {
            return;
        };
        self.note_end(&mut inner, request.to_info(self.head()), details());
        // Over HTTP/1, tokio polls what is spawned here after the connection, so after its write.
        // Over HTTP/2 the stream must wake the connection first, so on several workers, tasks that
        // start at once would often come before the write.
        let after_write = self.head().version >= Version::HTTP_2;
        let observers = self.supervisor.observers();
        if !observers.is_empty() {
            let end = inner.shared_end();
            drop(inner);
            if let Some(end) = end {
                observers.notify(|observer| observer.on_response_end(&end));
            }
            inner = self.lock();
        }
        self.start(inner, None, now, after_write);
        drop(request);
    }

    /// Starts the tasks, if they have not started before. `early_end` is what they know of the end
    /// of the response, if they start early.
    pub(super) fn start(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        early_end: Option<Arc<ResponseEnd>>,
        now: Instant,
        after_write: bool,
    ) {
        if inner.has_started {
            return;
        }
        let reporter = inner.note_start(early_end.as_ref());
        let runtime = inner.runtime(&self.supervisor);
        // A current-thread runtime polls the connection first, because it was woken first.
        let after_write = after_write && !runtime.as_ref().is_some_and(is_current_thread);
        let mut tasks = std::mem::take(&mut inner.deferred);
        let is_sequence = inner.order != Order::Concurrent && !tasks.is_empty();
        if is_sequence {
            // A task that is added now waits behind these.
            inner.sequence().has_driver = true;
        }
        drop(inner);

        self.allow(&mut tasks, early_end.as_ref(), now, is_sequence);
        if let Some(reporter) = reporter {
            let end = early_end.or_else(|| self.shared_end());
            reporter.start(end, self.supervisor.observers());
        }
        if is_sequence {
            self.start_sequence(tasks, after_write);
        } else {
            self.spawn_all(tasks, runtime, after_write);
        }
    }

    /// Allows deferred tasks to run. Each takes its permits, or its place in the queue for them,
    /// unless it waits for its turn in a sequence. `early_end` is what they know of the end of the
    /// response, if they start early.
    pub(super) fn allow(
        &self,
        tasks: &mut [Queued],
        early_end: Option<&Arc<ResponseEnd>>,
        now: Instant,
        is_sequence: bool,
    ) {
        for queued in &mut *tasks {
            if let Some(end) = early_end {
                queued.guard.set_early_end(Arc::clone(end));
            }
            if !is_sequence {
                self.acquire(queued);
            }
        }
        let is_ready = |queued: &Queued| !is_sequence && queued.acquire.is_ready();
        if metrics::is_wanted() {
            let ready = tasks.iter().filter(|queued| is_ready(queued)).count();
            metrics::moved(Some(Gauge::Deferred), Some(Gauge::Running), ready);
            metrics::moved(
                Some(Gauge::Deferred),
                Some(Gauge::Queued),
                tasks.len() - ready,
            );
        }
        for batch in tasks.chunks_mut(BATCH) {
            let guards = batch
                .iter_mut()
                .map(|queued| (is_ready(queued), &mut queued.guard));
            TaskGuard::allow(&self.supervisor, guards, now);
        }
    }

    /// Takes a permit for a task, or the last place in the queue for one.
    ///
    /// This is done when the task becomes ready, and not when it first runs, because the runtime
    /// decides which task runs first.
    #[inline]
    pub(super) fn acquire(&self, queued: &mut Queued) {
        let (supervisor, task) = (&self.supervisor, &queued.task);
        let limit = task.shared_limit();
        if limit.is_none() && !supervisor.limits_tasks() {
            return;
        }
        let falls_back = task.has_fallback() && supervisor.is_cancelled();
        queued.acquire = if falls_back || task.is_fallback() {
            Acquire::UNLIMITED
        } else {
            supervisor.acquire(limit, self.has_request(), task.is_blocking())
        };
    }

    /// Spawns tasks in the order added. Without a runtime they are dropped, and count as aborted.
    pub(super) fn spawn_all(
        self: &Arc<Self>,
        tasks: Vec<Queued>,
        runtime: Option<Handle>,
        after_write: bool,
    ) {
        let Some(runtime) = runtime else { return };
        // On a current-thread runtime, nothing of what is spawned here runs before the caller is
        // done, so few tasks need no driver.
        let is_few = tasks.len() <= BETWEEN_YIELDS && is_current_thread(&runtime);
        if tasks.len() > 1 && !is_few {
            let driver = drive(Arc::clone(self), tasks, runtime.clone(), after_write);
            drop(runtime.spawn(driver));
            return;
        }
        for queued in tasks {
            drop(self.spawn(&runtime, queued, after_write));
        }
    }

    /// Spawns one task, and keeps its handle for a shutdown.
    #[inline]
    pub(super) fn spawn(
        self: &Arc<Self>,
        runtime: &Handle,
        queued: Queued,
        after_write: bool,
    ) -> JoinHandle<bool> {
        let key = queued.guard.key();
        let handle = runtime.spawn(run(queued, Arc::clone(self), after_write));
        TaskGuard::spawned(&self.supervisor, key, handle.abort_handle());
        handle
    }
}

fn is_current_thread(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// So many tasks are allowed to run under one lock.
const BATCH: usize = 1024;

/// So many tasks are spawned without a yield.
const BETWEEN_YIELDS: usize = 32;

/// Spawns tasks that start together, without keeping others from the worker.
///
/// tokio wakes a task that yields after at most 61 other polls. The driver spawns fewer tasks than
/// that in between, so that the queue of its worker never overflows. An overflow would move the
/// tasks of others behind all of these.
async fn drive(state: Arc<RequestState>, tasks: Vec<Queued>, runtime: Handle, after_write: bool) {
    if after_write {
        yield_now().await;
    }
    for (index, queued) in tasks.into_iter().enumerate() {
        if index > 0 && index % BETWEEN_YIELDS == 0 {
            yield_now().await;
        }
        drop(state.spawn(&runtime, queued, false));
    }
}
