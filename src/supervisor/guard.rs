//! [`TaskGuard`]: gives each task its one outcome.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    owner::Owner,
    report::{TaskInfo, TaskReport},
    reporter::RequestReporter,
    scope::TaskScope,
    shard::{Entry, Stop},
    slots::Key,
    stats::{Counter, Stats},
    supervisor::Supervisor,
    table::Described,
    task_state::TaskState,
    unique::UniqueKey,
};
use crate::{
    response::{RequestInfo, ResponseEnd},
    task::{Name, Outcome, Task},
    util::{
        metrics::{self, Gauge},
        trace::{self, Level},
    },
};

/// The entry of one task in the task table.
///
/// [`finish`](Self::finish) gives the task its outcome. A guard that is dropped before that counts
/// the task as aborted, so no task is lost when a runtime drops what it has.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is about a step of its own"
)]
pub(crate) struct TaskGuard {
    supervisor: Supervisor,
    key: Key,
    /// Whether the table has the task as running. A task with its permits is there before it is
    /// first polled.
    is_running: bool,
    has_started: bool,
    /// Whether the table can wake the task.
    has_waker: bool,
    has_ended: bool,
    /// What few tasks have, so that the others stay small.
    extra: Option<Box<Extra>>,
}

/// What surrounds a task, and who wants to know of it.
#[derive(Default)]
struct Extra {
    scope: Option<Arc<TaskScope>>,
    reporter: Option<Arc<RequestReporter>>,
    outcome: Option<oneshot::Sender<Outcome>>,
    started: Option<Instant>,
    /// What was known of the end of the response, if the task was allowed to run before it.
    early_end: Option<Arc<ResponseEnd>>,
    /// The key of a unique task.
    unique: Option<UniqueKey>,
    /// Whether another task has the key of this one.
    is_duplicate: bool,
}

impl Extra {
    #[cold]
    fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.scope {
            Some(scope) => scope.enter(f),
            None => f(),
        }
    }
}

impl TaskGuard {
    /// Adds a task to the table. `since` says when it was allowed to run, if it is not deferred.
    /// Returns whether the supervisor is closed, so that the task must run its fallback. Returns
    /// `None` if the supervisor takes no task.
    #[inline]
    pub(crate) fn enter(
        supervisor: &Supervisor,
        owner: &Arc<impl Owner + 'static>,
        task: &Task,
        since: Option<Instant>,
    ) -> Option<(Self, bool)> {
        let state = if since.is_some() {
            TaskState::Queued
        } else {
            TaskState::Deferred
        };
        let entry = Entry {
            name: task.shared_name().cloned(),
            owner: Arc::downgrade(owner) as _,
            has_request: owner.has_request(),
            state,
            since,
            is_fallback: task.has_fallback(),
            stop: None,
            waker: None,
        };
        let (key, is_closed) = supervisor.table().add(entry, owner.is_admitted())?;
        let guard = Self {
            supervisor: supervisor.clone(),
            key,
            is_running: false,
            has_started: false,
            has_waker: false,
            has_ended: false,
            extra: None,
        };
        Some((guard, is_closed))
    }

    /// Notes what surrounds the task, and who gets its outcome.
    #[cold]
    pub(crate) fn set_extra(
        &mut self,
        scope: Option<Arc<TaskScope>>,
        outcome: Option<oneshot::Sender<Outcome>>,
    ) {
        self.extra = Some(Box::new(Extra {
            scope,
            outcome,
            ..Extra::default()
        }));
    }

    /// Reports the task to the observers.
    pub(crate) fn set_reporter(&mut self, reporter: Arc<RequestReporter>) {
        reporter.add();
        self.extra.get_or_insert_default().reporter = Some(reporter);
    }

    pub(crate) const fn key(&self) -> Key {
        self.key
    }

    pub(crate) const fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Returns what was known of the end of the response, if the task was allowed to run before it.
    #[inline]
    pub(crate) fn early_end(&self) -> Option<&Arc<ResponseEnd>> {
        self.extra.as_ref()?.early_end.as_ref()
    }

    pub(crate) fn set_early_end(&mut self, end: Arc<ResponseEnd>) {
        self.extra.get_or_insert_default().early_end = Some(end);
    }

    /// Returns what surrounds the code of the task.
    #[inline]
    pub(crate) fn scope(&self) -> Option<&Arc<TaskScope>> {
        self.extra.as_ref()?.scope.as_ref()
    }

    /// Runs `f` inside the scope of the task. `f` itself must not panic.
    #[inline]
    pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.extra {
            Some(extra) => extra.in_scope(f),
            None => f(),
        }
    }

    /// Allows deferred tasks to run. Those that are ready count as running from now on.
    #[inline]
    pub(crate) fn allow<'a>(
        supervisor: &Supervisor,
        tasks: impl Iterator<Item = (bool, &'a mut Self)>,
        since: Instant,
    ) {
        let states = tasks.map(|(is_ready, guard)| {
            guard.is_running = is_ready;
            (
                guard.key,
                if is_ready {
                    TaskState::Running
                } else {
                    TaskState::Queued
                },
            )
        });
        supervisor.table().allow(states, since);
    }

    /// Returns whether the task may go on. If not, it was aborted or removed, or a shutdown is over.
    #[inline]
    pub(crate) fn may_go_on(&self) -> bool {
        self.supervisor.table().may_go_on(self.key)
    }

    /// The task waits. When it first does, it leaves its waker in the table. Returns `false` if it
    /// should stop.
    ///
    /// A task that is ready when it is first polled leaves no waker. One waker is enough, because
    /// a tokio task has the same one at each poll.
    #[inline]
    pub(crate) fn leave_waker(&mut self, cx: &Context<'_>) -> bool {
        if !self.has_waker {
            self.has_waker = self.supervisor.table().keep_waker(self.key, cx.waker());
        }
        self.has_waker
    }

    /// Waits for a future. Returns `None` if the task should stop.
    pub(crate) async fn until_stopped<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if !self.may_go_on() {
                return Poll::Ready(None);
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.leave_waker(cx) => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            }
        })
        .await
    }

    /// Takes the key of a unique task. Returns `false` if another task has it.
    #[inline]
    pub(crate) fn claim(&mut self, key: &Name) -> bool {
        let extra = self.extra.get_or_insert_default();
        extra.unique = self.supervisor.unique_keys().claim(key);
        extra.is_duplicate = extra.unique.is_none();
        !extra.is_duplicate
    }

    /// The task starts to run. Returns `false` if it should not, because it was aborted or removed,
    /// or a shutdown is over.
    #[inline]
    pub(crate) fn start(&mut self) -> bool {
        if self.has_started {
            return true;
        }
        self.has_started = true;
        let may_run = if self.is_running {
            self.may_go_on()
        } else {
            self.leave_queue()
        };
        if !may_run {
            return false;
        }
        if self.extra.is_some() {
            self.tell_start();
        }
        true
    }

    /// A task with its permits starts to run. Returns `false` if it should not.
    #[cold]
    fn leave_queue(&self) -> bool {
        let may_run = self.supervisor.table().start(self.key);
        if may_run {
            metrics::moved(Some(Gauge::Queued), Some(Gauge::Running), 1);
        }
        may_run
    }

    /// Tells logs and observers that the task starts.
    #[cold]
    fn tell_start(&mut self) {
        let Some(extra) = &mut self.extra else { return };
        extra.started = Some(Instant::now());
        if let Some(span) = extra.scope.as_ref().and_then(|scope| scope.span.as_ref()) {
            trace::start(span);
        }
        let observers = self.supervisor.observers();
        if !observers.is_empty() {
            if let Some(described) = self.supervisor.table().describe(self.key) {
                observers.notify(|observer| observer.on_task_start(&described.task));
            }
        }
    }

    /// Ends the task. Returns whether it failed.
    pub(crate) fn finish(&mut self, outcome: Outcome) -> bool {
        let failed = outcome.is_failure();
        self.end_with(outcome);
        failed
    }

    /// The one place where a task gets its outcome.
    #[inline]
    fn end_with(&mut self, outcome: Outcome) {
        self.has_ended = true;
        let mut counter = Stats::counter(&outcome);
        let is_wanted = metrics::is_wanted() || level(&outcome).is_wanted();
        if is_wanted || self.extra.is_some() {
            // Before the task is counted as ended: who waits for an idle supervisor expects that
            // everybody was told.
            counter = self.end_extra(outcome, counter, is_wanted);
        } else {
            outcome.discard();
        }
        self.supervisor.table().end(self.key, counter);
    }

    /// Tells whoever wants to know it how the task ended, and drops what few tasks have. Returns what
    /// counts the outcome.
    #[cold]
    fn end_extra(&mut self, outcome: Outcome, mut counter: Counter, is_wanted: bool) -> Counter {
        let mut is_awaited = false;
        if let Some(extra) = &self.extra {
            is_awaited = extra.reporter.is_some() || extra.outcome.is_some();
            if extra.is_duplicate {
                counter = Stats::count_duplicate;
            }
        }
        if is_wanted || is_awaited {
            self.tell(outcome, counter);
        } else {
            outcome.discard();
        }
        // Before the task is counted as ended, so that another one can take its unique key then.
        self.extra = None;
        counter
    }

    /// Tells metrics, logs, observers and the handle of the task how it ended.
    fn tell(&mut self, outcome: Outcome, counter: Counter) {
        let Some(described) = self.supervisor.table().describe(self.key) else {
            return outcome.discard();
        };
        let Described {
            task, since, owner, ..
        } = described;
        let Some(mut extra) = self.extra.take() else {
            log(&task, &outcome, None);
            return outcome.discard();
        };
        let ran = extra.started.map(|started| started.elapsed());
        let waited = since.map_or(Duration::ZERO, |since| {
            since.elapsed().saturating_sub(ran.unwrap_or_default())
        });
        metrics::moved(Some(task.state().gauge()), None, 1);
        metrics::ended(task.name(), outcome.label(), waited, ran);
        log(&task, &outcome, extra.scope.as_deref());
        // Only observers see the end.
        let end = if extra.reporter.is_some() {
            let early_end = extra.early_end.take();
            early_end.or_else(|| owner.and_then(|owner| owner.end()))
        } else {
            None
        };
        let mut report = TaskReport {
            name: task.name,
            outcome,
            waited,
            ran,
            end,
        };
        if extra.reporter.is_some() {
            self.supervisor
                .observers()
                .notify(|observer| observer.on_task_end(&report));
        }
        if let Some(handle) = extra.outcome.take() {
            let copy = report.outcome.copy();
            let original = std::mem::replace(&mut report.outcome, copy);
            // The handle may be gone.
            let _ = handle.send(original).map_err(Outcome::discard);
        }
        match extra.reporter.take() {
            Some(reporter) => reporter.end(report, counter, self.supervisor.observers()),
            None => drop(report),
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if !self.has_ended {
            let described = self.supervisor.table().describe(self.key);
            let stop = described.and_then(|described| described.stop);
            self.end_with(if stop == Some(Stop::Remove) {
                Outcome::Removed
            } else {
                Outcome::Aborted
            });
        }
    }
}

const fn level(outcome: &Outcome) -> Level {
    match outcome {
        Outcome::Failed(_) | Outcome::Panicked(_) | Outcome::TimedOut => Level::Error,
        Outcome::Aborted => Level::Warn,
        Outcome::Succeeded | Outcome::Removed | Outcome::Skipped | Outcome::FellBack => {
            Level::Debug
        }
    }
}

fn log(task: &TaskInfo, outcome: &Outcome, scope: Option<&TaskScope>) {
    let level = level(outcome);
    if level.is_wanted() {
        let span = scope.and_then(|scope| scope.span.as_ref());
        let request = RequestInfo::fields(task.request.as_ref());
        let error = outcome.error_text();
        trace::task_ended(
            level,
            span,
            task.name(),
            request,
            outcome.label(),
            error.as_deref(),
        );
    }
}
