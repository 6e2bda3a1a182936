//! Runs one task to its one outcome, inside its tokio task.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::{spawn_blocking, yield_now},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{current::RequestScope, queued::Queued, state::RequestState};
use crate::{
    response::ResponseEnd,
    supervisor::{Acquire, TaskGuard},
    task::{BlockingFunction, Outcome, TaskContext, WorkResult},
    util::catch,
};

/// Runs a task, and returns whether it failed. If the task starts `after_write`, it first yields to
/// the server.
///
/// tokio moves this future several times when it spawns the task, so it is kept small: what few
/// tasks need is in boxed futures.
pub(super) fn run(
    queued: Queued,
    state: Arc<RequestState>,
    after_write: bool,
) -> impl Future<Output = bool> + Send {
    let mut run = Run {
        queued,
        state: state.into(),
    };
    async move {
        if after_write {
            // The server gets its worker back, and can write the end of the response.
            yield_now().await;
        }
        let outcome = 'outcome: {
            if !run.queued.guard.may_go_on() {
                break 'outcome None;
            }
            if let Err(outcome) = run.may_run() {
                break 'outcome Some(outcome);
            }
            if !run.is_simple() {
                break 'outcome Box::pin(run.attempt_or_fall_back()).await;
            }
            if !run.queued.guard.start() {
                break 'outcome None;
            }
            poll_fn(|cx| run.poll(cx)).await
        };
        // As `Queued::finish`, but in place: the work is dropped before the task is counted as ended,
        // and then its permits are free.
        drop(run.queued.task);
        match outcome {
            Some(outcome) => run.queued.guard.finish(outcome),
            // The task was stopped. The drop of the guard counts that.
            None => false,
        }
    }
}

/// A task that runs. If the runtime drops it, the fields of [`Queued`] are dropped in their order.
struct Run {
    queued: Queued,
    state: RequestScope,
}

impl Run {
    /// Judges the condition of the task, and takes its unique key. Returns the outcome of a task that
    /// may not run.
    fn may_run(&mut self) -> Result<(), Outcome> {
        let task = &self.queued.task;
        // This is enough for tasks that start early, too. They wait for the head, or run always.
        if !task.condition().holds_after(self.state.has_responded()) {
            self.judge_condition()?;
        }
        if self.queued.task.has_rare_options() {
            self.claim_key()?;
        }
        Ok(())
    }

    /// Judges the condition by the end of the response. Without a response, each condition holds.
    #[cold]
    fn judge_condition(&mut self) -> Result<(), Outcome> {
        let Queued { task, guard, .. } = &self.queued;
        let Some(end) = shared_end_of(&self.state, guard) else {
            return Ok(());
        };
        let _entered = self.state.enter();
        match guard.in_scope(|| catch(|| task.condition().holds(&end))) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Outcome::Skipped),
            Err(panic) => Err(Outcome::Panicked(panic)),
        }
    }

    /// Takes the key of a unique task.
    #[cold]
    fn claim_key(&mut self) -> Result<(), Outcome> {
        let Queued { task, guard, .. } = &mut self.queued;
        match task.unique_key() {
            Some(unique) if !guard.claim(unique) => Err(Outcome::Skipped),
            _ => Ok(()),
        }
    }

    /// Returns whether the task is a future that can run at once, without options that few tasks
    /// have.
    fn is_simple(&self) -> bool {
        let Queued {
            task,
            guard,
            acquire,
        } = &self.queued;
        acquire.is_ready()
            && !task.has_rare_options()
            && !task.is_blocking()
            && guard.supervisor().config().task_timeout.is_none()
    }

    /// Waits for permits, and runs the work. Returns `None` if the task was stopped.
    async fn attempt(&mut self) -> Option<Outcome> {
        let Queued { guard, acquire, .. } = &mut self.queued;
        guard.until_stopped(acquire.acquired()).await??;
        if !self.queued.guard.start() {
            return None;
        }
        if let Some(function) = self.queued.task.take_function() {
            return self.run_function(function).await;
        }
        match self.timeout() {
            None => poll_fn(|cx| self.poll(cx)).await,
            Some(time) => within(time, poll_fn(|cx| self.poll(cx)))
                .await
                .unwrap_or_else(Some),
        }
    }

    /// Returns the timeout of the task. A task without a request has no default timeout.
    fn timeout(&self) -> Option<Duration> {
        let Queued { task, guard, .. } = &self.queued;
        let of_requests = || {
            let timeout = guard.supervisor().config().task_timeout;
            timeout.filter(|_| self.state.has_request())
        };
        task.time_limit().or_else(of_requests)
    }

    /// Polls the work: inside the scope of the task, and as code of its request. Returns
    /// `Ready(None)` if the task was stopped.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        if !self.queued.guard.may_go_on() {
            return Poll::Ready(None);
        }
        let polled = if self.queued.task.needs_call() {
            self.call_and_poll(cx)
        } else {
            let Queued { task, guard, .. } = &mut self.queued;
            let _entered = self.state.enter();
            guard.in_scope(|| catch(|| task.poll(cx)))
        };
        match polled {
            Ok(Poll::Pending) if self.queued.guard.leave_waker(cx) => Poll::Pending,
            Ok(Poll::Pending) => Poll::Ready(None),
            Ok(Poll::Ready(result)) => Poll::Ready(Some(outcome(Ok(result)))),
            Err(panic) => Poll::Ready(Some(Outcome::Panicked(panic))),
        }
    }

    /// Calls the function of the task, and polls the future that the function returns. Returns the
    /// message of a panic.
    #[cold]
    fn call_and_poll(&mut self, cx: &mut Context<'_>) -> Result<Poll<WorkResult>, String> {
        let Queued { task, guard, .. } = &mut self.queued;
        let name = task.shared_name().cloned();
        let end = shared_end_of(&self.state, guard);
        let cancel = guard.supervisor().cancel_token().clone();
        let context = TaskContext::new(name, end, cancel);
        let _entered = self.state.enter();
        guard.in_scope(|| {
            catch(|| {
                task.call(context);
                task.poll(cx)
            })
        })
    }

    /// Runs a function on a thread for blocking work. The function keeps the permits until it
    /// returns, also if nobody waits for it.
    async fn run_function(&mut self, function: BlockingFunction) -> Option<Outcome> {
        let time = self.timeout();
        let Queued {
            task,
            guard,
            acquire,
        } = &mut self.queued;
        let cancel = guard.supervisor().cancel_token().child_token();
        let name = task.shared_name().cloned();
        let end = shared_end_of(&self.state, guard);
        let context = TaskContext::new(name, end, cancel.clone());
        // Tells the function to stop, if this future is dropped or the time is over.
        let _cancel = cancel.drop_guard();
        let mut state = RequestScope::from(Arc::clone(&self.state));
        let scope = guard.scope().cloned();
        let permits = std::mem::replace(acquire, Acquire::UNLIMITED);
        let call = move || {
            let _entered = state.enter();
            let call = || catch(|| function(context));
            let result = match &scope {
                Some(scope) => scope.enter(call),
                None => call(),
            };
            (result, permits)
        };
        let thread = match catch(|| spawn_blocking(call)) {
            // A function that has not begun when this is dropped never will.
            Ok(thread) => AbortOnDropHandle::new(thread),
            Err(panic) => return Some(Outcome::Panicked(panic)),
        };
        let joined = match time {
            None => guard.until_stopped(thread).await?,
            Some(time) => match guard.until_stopped(within(time, thread)).await? {
                Ok(joined) => joined,
                Err(outcome) => return Some(outcome),
            },
        };
        // The function is only lost if the runtime goes down.
        let (result, permits) = joined.ok()?;
        *acquire = permits;
        Some(outcome(result))
    }

    /// Runs the work, or the shutdown fallback of the task. Returns `None` if the task was stopped.
    async fn attempt_or_fall_back(&mut self) -> Option<Outcome> {
        if !self.queued.task.has_fallback() && !self.queued.task.is_fallback() {
            return self.attempt().await;
        }
        if let Some(fallback) = self.queued.task.take_fallback() {
            let cancel = self.queued.guard.supervisor().cancel_token().clone();
            if let Some(outcome) = cancel.run_until_cancelled(self.attempt()).await {
                return outcome;
            }
            // Drops the work, before the fallback begins.
            self.queued.task = fallback;
        }
        if !self.queued.guard.start() {
            return None;
        }
        let time = self.queued.guard.supervisor().abort_after();
        match within(time, poll_fn(|cx| self.poll(cx))).await {
            Ok(Some(Outcome::Succeeded)) => Some(Outcome::FellBack),
            // The fallback took too long.
            Err(Outcome::TimedOut) => None,
            Ok(outcome) => outcome,
            Err(outcome) => Some(outcome),
        }
    }
}

/// Returns how the response ended, as far as it was known when the task was allowed to run. `None`
/// for a task without a request.
fn shared_end_of(state: &RequestState, guard: &TaskGuard) -> Option<Arc<ResponseEnd>> {
    guard.early_end().cloned().or_else(|| state.shared_end())
}

fn outcome(result: Result<WorkResult, String>) -> Outcome {
    match result {
        Ok(Ok(())) => Outcome::Succeeded,
        Ok(Err(error)) => Outcome::Failed(error),
        Err(panic) => Outcome::Panicked(panic),
    }
}

/// Waits for a future, but not longer than `time`.
///
/// A runtime without a time driver panics when the timer is created or polled. The task counts as
/// panicked then.
async fn within<F: Future>(time: Duration, future: F) -> Result<F::Output, Outcome> {
    let mut timed = match catch(|| timeout(time, future)) {
        Ok(timed) => Box::pin(timed),
        Err(panic) => return Err(Outcome::Panicked(panic)),
    };
    poll_fn(|cx| match catch(|| timed.as_mut().poll(cx)) {
        Ok(poll) => poll.map_err(|_| Outcome::TimedOut),
        Err(panic) => Poll::Ready(Err(Outcome::Panicked(panic))),
    })
    .await
}
