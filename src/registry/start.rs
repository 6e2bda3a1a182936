//! Starts the tasks of a request: the one place that spawns tasks.
//!
//! Each task becomes a separate tokio task. Several tasks that start together must not run before the
//! server has its worker back. So at first only the last one is spawned. It waits in the worker's own
//! slot, and spawns the others before it runs. On a current-thread runtime, a few tasks are spawned
//! at once.

use std::{future::poll_fn, sync::Arc, task::Poll};

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
    response::{BodyState, ResponseEnd},
    supervisor::{Acquire, RequestReporter, TaskGuard},
    task::Order,
    util::{
        metrics::{self, Gauge},
        sync::MutexGuard,
    },
};

impl RequestState {
    /// The response has ended. Its tasks start, if they have not started before.
    /// `bytes_sent` is how many bytes of the data the socket took, if that is known.
    pub(crate) fn finish(self: &Arc<Self>, body: BodyState, bytes_sent: Option<u64>, now: Instant) {
        let mut inner = self.lock();
        if inner.has_ended() {
            // The lock is released before the body is dropped: trailers can own values of the user.
            return;
        }
        inner.end(body, bytes_sent, now);
        // Over HTTP/1, tokio polls what is spawned here after the connection, so after its write.
        // Over HTTP/2 the stream must wake the connection first, so on several workers, tasks that
        // start at once would often come before the write.
        let after_write = self.head().version >= Version::HTTP_2;
        let observers = self.supervisor.observers();
        if !observers.is_empty() {
            let end = self.shared_end_in(&mut inner);
            drop(inner);
            if let Some(end) = end {
                observers.notify(|observer| observer.on_response_end(&end));
            }
            inner = self.lock();
        }
        self.start(inner, None, now, after_write);
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
            self.start_reports(&reporter, early_end);
        }
        if is_sequence {
            self.start_sequence(tasks, after_write);
        } else {
            self.spawn_all(tasks, runtime, after_write);
        }
    }

    /// Tells the reporter of the request that its tasks start.
    #[cold]
    fn start_reports(&self, reporter: &RequestReporter, early_end: Option<Arc<ResponseEnd>>) {
        let end = early_end.or_else(|| self.shared_end());
        reporter.start(end, self.supervisor.observers());
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
        if queued.task.shared_limit().is_some() || self.supervisor.limits_tasks() {
            self.acquire_permits(queued);
        }
    }

    #[cold]
    fn acquire_permits(&self, queued: &mut Queued) {
        let (supervisor, task) = (&self.supervisor, &queued.task);
        let falls_back = task.has_fallback() && supervisor.is_cancelled();
        queued.acquire = if falls_back || task.is_fallback() {
            Acquire::UNLIMITED
        } else {
            supervisor.acquire(task.shared_limit(), self.has_request(), task.is_blocking())
        };
    }

    /// Spawns tasks that start together. Without a runtime they are dropped, and count as aborted.
    pub(super) fn spawn_all(
        self: &Arc<Self>,
        tasks: Vec<Queued>,
        runtime: Option<Handle>,
        after_write: bool,
    ) {
        let Some(runtime) = runtime else { return };
        // On a current-thread runtime, what the server spawns runs after the poll of the server.
        let is_simple =
            tasks.len() <= 1 || (tasks.len() <= AT_A_TIME && is_current_thread(&runtime));
        if is_simple {
            for queued in tasks {
                drop(self.spawn(&runtime, queued, after_write));
            }
        } else {
            self.spawn_behind(&runtime, tasks, after_write);
        }
    }

    /// Spawns the last one of several tasks, which spawns the others.
    #[inline(never)]
    fn spawn_behind(self: &Arc<Self>, runtime: &Handle, mut tasks: Vec<Queued>, after_write: bool) {
        let Some(last) = tasks.pop() else { return };
        let others = spawn_others(Arc::clone(self), runtime.clone(), tasks, after_write);
        let (others, last) = (Box::pin(others), run(last, Arc::clone(self), false));
        drop(runtime.spawn(async move {
            // Also if the last task was stopped: nothing else spawns the others.
            others.await;
            last.await
        }));
    }

    /// Spawns one task.
    #[inline]
    pub(super) fn spawn(
        self: &Arc<Self>,
        runtime: &Handle,
        queued: Queued,
        after_write: bool,
    ) -> JoinHandle<bool> {
        runtime.spawn(run(queued, Arc::clone(self), after_write))
    }
}

fn is_current_thread(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// So many tasks are allowed to run under one lock.
const BATCH: usize = 1024;

/// So many tasks are spawned at a time.
const AT_A_TIME: usize = 32;

/// Spawns the tasks that start together with another one, without keeping others from the worker.
///
/// It spawns few of them at a time, so that the queue of the worker never overflows. An overflow
/// would move the tasks of others behind all of these.
async fn spawn_others(
    state: Arc<RequestState>,
    runtime: Handle,
    tasks: Vec<Queued>,
    after_write: bool,
) {
    if after_write {
        yield_now().await;
    }
    let mut tasks = tasks.into_iter();
    while tasks.len() > 0 {
        for queued in tasks.by_ref().take(AT_A_TIME) {
            drop(state.spawn(&runtime, queued, false));
        }
        requeue().await;
    }
}

/// Goes to the end of the worker's queue.
///
/// The task that was spawned last is in the worker's own slot, from which no other worker takes it,
/// so it must run before this one goes on. `yield_now` would put this task aside, from where no
/// other worker takes it, although the tasks of this worker may block it for long.
async fn requeue() {
    let mut is_queued = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_queued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
