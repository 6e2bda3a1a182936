//! Starts the tasks of a request: the one place that spawns tasks.
//!
//! Each task becomes a separate tokio task. Of several tasks that start together, the last one is
//! spawned alone, and spawns the others before it runs. So one tokio task sits in the worker's own
//! slot, and not many, until the server has its worker back.

use std::{future::poll_fn, sync::Arc, task::Poll, vec};

use http::Version;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinHandle, yield_now},
    time::Instant,
};

use super::{
    queued::Queued,
    run::{BoxFuture, run},
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
        mut tasks: Vec<Queued>,
        runtime: Option<Handle>,
        after_write: bool,
    ) {
        let Some(runtime) = runtime else { return };
        // On a current-thread runtime, nothing of what is spawned here runs before the caller is
        // done, so few tasks can be spawned at once.
        if tasks.len() <= BETWEEN_YIELDS && is_current_thread(&runtime) {
            for queued in tasks {
                drop(self.spawn(&runtime, queued, after_write));
            }
            return;
        }
        let Some(last) = tasks.pop() else { return };
        let mut first = None;
        if !tasks.is_empty() {
            let others = Others {
                state: Arc::clone(self),
                runtime: runtime.clone(),
                tasks: tasks.into_iter(),
            };
            first = Some(Box::pin(others.spawn()) as BoxFuture);
        }
        drop(self.spawn_after(first, &runtime, last, after_write));
    }

    /// Spawns one task, and keeps its handle for a shutdown.
    #[inline]
    pub(super) fn spawn(
        self: &Arc<Self>,
        runtime: &Handle,
        queued: Queued,
        after_write: bool,
    ) -> JoinHandle<bool> {
        self.spawn_after(None, runtime, queued, after_write)
    }

    /// Spawns one task as [`spawn`](Self::spawn) does. Its tokio task runs another future first.
    fn spawn_after(
        self: &Arc<Self>,
        first: Option<BoxFuture>,
        runtime: &Handle,
        queued: Queued,
        after_write: bool,
    ) -> JoinHandle<bool> {
        let key = queued.guard.key();
        let handle = runtime.spawn(run(queued, Arc::clone(self), first, after_write));
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

/// Tasks that start together with another one, which spawns them before it runs.
struct Others {
    state: Arc<RequestState>,
    runtime: Handle,
    tasks: vec::IntoIter<Queued>,
}

impl Others {
    /// Spawns the tasks without keeping others from the worker.
    ///
    /// tokio wakes a task that yields after at most 61 other polls. This spawns fewer tasks than
    /// that in between, so that the queue of the worker never overflows. An overflow would move the
    /// tasks of others behind all of these.
    async fn spawn(mut self) {
        loop {
            self.spawn_some(BETWEEN_YIELDS);
            if self.tasks.len() == 0 {
                break;
            }
            yield_now().await;
        }
        // The task that was spawned last is in the worker's own slot, from which no other worker
        // takes it. So it goes first.
        let mut has_yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn spawn_some(&mut self, count: usize) {
        for queued in self.tasks.by_ref().take(count) {
            drop(self.state.spawn(&self.runtime, queued, false));
        }
    }
}

/// The task that spawns these can be aborted before it does. They start then, too.
impl Drop for Others {
    fn drop(&mut self) {
        self.spawn_some(usize::MAX);
    }
}
