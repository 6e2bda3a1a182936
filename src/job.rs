//! The life of one task, from its place in the registry to its one outcome.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::Instant;

use crate::{
    context::TaskContext,
    current::Scope,
    lane::{InLine, Place},
    ledger::Key,
    log::Span,
    meter,
    name::Name,
    outcome::Outcome,
    panics::{caught, quietly},
    released::Released,
    report::TaskReport,
    supervisor::Supervisor,
    task::{Kind, Task},
    when::When,
    work::{AsyncWork, BlockingWork, WorkResult},
};

/// A task in the registry, with its line in the books.
pub(crate) struct Filed {
    pub(crate) task: Task,
    pub(crate) key: Key,
    /// Its place in the order added.
    pub(crate) index: usize,
    pub(crate) span: Span,
}

/// A released task.
pub(crate) struct Job {
    ticket: Ticket,
    kind: Kind,
    when: When,
    timeout: Option<Duration>,
}

/// A released task that is to run when it has a place.
pub(crate) struct Queued {
    job: Job,
    place: Result<Place, InLine>,
}

impl Job {
    pub(crate) fn new(release: Released, filed: Filed) -> Self {
        let Filed { task: Task { kind, name, timeout, when }, key, index, span } = filed;
        let timeout = timeout.or(release.supervisor().policy().task_timeout);
        Self {
            ticket: Ticket { release, key: Some(key), index, name, in_line: false, started: None, ended: false, span },
            kind,
            when,
            timeout,
        }
    }

    /// Judges whether the task is to run, and takes a place for it or a place in line.
    ///
    /// # Errors
    ///
    /// The task is over by that; the value says whether it failed.
    pub(crate) fn line_up(mut self) -> Result<Queued, bool> {
        if self.ticket.release.supervisor().is_aborted() {
            return Err(self.end_unstarted(Outcome::Cancelled));
        }
        match caught(|| self.ticket.span.in_scope(|| self.when.holds(self.ticket.release.end()))) {
            Ok(true) => {
                let place = self.ticket.release.supervisor().lane(&self.kind).enter();
                if place.is_err() {
                    self.ticket.stand_in_line();
                }
                Ok(Queued { job: self, place })
            }
            Ok(false) => Err(self.end_unstarted(Outcome::Skipped)),
            Err(message) => Err(self.end_unstarted(Outcome::Panicked(message))),
        }
    }

    /// Ends a task that has not started. Returns whether it failed.
    pub(crate) fn end_unstarted(self, outcome: Outcome) -> bool {
        let Self { mut ticket, kind, when, .. } = self;
        quietly("a task's captured value", || drop((kind, when)));
        ticket.end(outcome)
    }
}

impl Queued {
    /// Runs the task to its end. Returns whether it failed.
    pub(crate) async fn run(self) -> bool {
        let Self { mut job, place } = self;
        let place = match place {
            Ok(place) => place,
            Err(in_line) => match job.ticket.wait(in_line).await {
                Some(place) => place,
                None => return job.end_unstarted(Outcome::Cancelled),
            },
        };
        let Job { mut ticket, kind, timeout, .. } = job;
        ticket.start();
        let (outcome, _place) = match kind {
            Kind::Async(work) => (run_async(work, &ticket, timeout).await, place),
            Kind::Blocking(work) => (run_blocking(work, &ticket, timeout, place).await, None),
        };
        ticket.end(outcome)
    }
}

/// A released task's place in the books. Its drop before the end counts the task as cancelled, so that none is lost when a
/// runtime drops what it has.
struct Ticket {
    release: Released,
    /// The line in the books; none once the task was taken back, and its line closed.
    key: Option<Key>,
    index: usize,
    name: Option<Name>,
    in_line: bool,
    started: Option<Instant>,
    ended: bool,
    span: Span,
}

impl Ticket {
    fn context(&self, token: tokio_util::sync::CancellationToken) -> TaskContext {
        TaskContext { release: self.release.clone(), name: self.name.clone(), token }
    }

    /// Lets the task be taken back while it waits for a place.
    fn stand_in_line(&mut self) {
        if let Some(key) = self.key {
            self.release.tasks().stand_in_line(self.index, key, self.name.clone());
            self.in_line = true;
        }
    }

    /// Returns whether the task was not taken back. If it was, its line in the books is closed, and may be another task's.
    fn leave_line(&mut self) -> bool {
        if std::mem::take(&mut self.in_line) && !self.release.tasks().leave_line(self.index) {
            self.key = None;
        }
        self.key.is_some()
    }

    /// Waits in line. Nothing if the task was taken back meanwhile, or the supervisor aborts.
    async fn wait(&mut self, in_line: InLine) -> Option<Place> {
        let place = unless_aborted(self.release.supervisor(), in_line).await;
        if self.leave_line() { place } else { None }
    }

    fn start(&mut self) {
        self.started = Some(Instant::now());
        let supervisor = self.release.supervisor();
        let Some(key) = self.key else { return };
        supervisor.ledger().start(key);
        if !supervisor.observers().is_empty() {
            if let Some(task) = supervisor.ledger().task(key) {
                supervisor.observers().tell(|observer| observer.task_started(&task));
            }
        }
        self.span.in_scope(|| crate::log::debug!("a task started"));
    }

    /// The one place where a released task gets its outcome. Returns whether the task failed.
    fn end(&mut self, outcome: Outcome) -> bool {
        if std::mem::replace(&mut self.ended, true) {
            return outcome.is_failure();
        }
        let failed = outcome.is_failure();
        self.leave_line();
        let supervisor = self.release.supervisor();
        let ended = Instant::now();
        let waited = self.started.unwrap_or(ended).saturating_duration_since(self.release.at());
        let ran = self.started.map(|started| ended.saturating_duration_since(started));
        self.span.outcome(outcome.label());
        self.span.in_scope(|| log_outcome(&outcome, self.name.as_ref().map_or("", Name::as_str), self.release.end().path()));
        meter::ended(self.name.as_ref(), &outcome, waited, ran);
        let figure = outcome.figure();
        if !supervisor.observers().is_empty() {
            let report = TaskReport { name: self.name.clone(), outcome, waited, ran, release: Some(self.release.clone()) };
            self.release.tasks().report(self.index, report);
        }
        // Last of all, so that whoever waits for the books to be idle finds everything told.
        if let Some(key) = self.key {
            supervisor.ledger().end(key, figure);
        }
        failed
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            // Also while a panic unwinds: it is not the task's, whose own are caught, but that of who drops the task.
            self.end(Outcome::Cancelled);
        }
    }
}

/// Logs how a task ended, under its name and its request's path.
pub(crate) fn log_outcome(outcome: &Outcome, task: &str, path: &str) {
    match outcome {
        Outcome::Succeeded => crate::log::debug!(task = task, path = path, "a task succeeded"),
        Outcome::Skipped => crate::log::debug!(task = task, path = path, "a task was skipped: its condition did not hold"),
        Outcome::Refused => crate::log::error!(task = task, path = path, "a task was refused: the supervisor is closed"),
        Outcome::Cancelled => crate::log::warn!(task = task, path = path, "a task was cancelled before its end"),
        Outcome::TimedOut => crate::log::error!(task = task, path = path, "a task ran longer than its timeout"),
        Outcome::Failed(error) => crate::log::error!(task = task, path = path, error = %error, "a task failed"),
        Outcome::Panicked(message) => crate::log::error!(task = task, path = path, panic = %message, "a task panicked"),
    }
}

/// Polls the future until it is ready, or the supervisor aborts what runs.
async fn unless_aborted<F: Future>(supervisor: &Supervisor, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut aborted = pin!(supervisor.aborted());
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        // A task that is ready at once never comes here, and costs nothing for it.
        Poll::Pending => aborted.as_mut().poll(cx).map(|()| None),
    })
    .await
}

async fn within<F: Future>(timeout: Option<Duration>, future: F) -> Result<F::Output, Outcome> {
    match timeout {
        // A runtime without a time driver panics at the timer, not at the task.
        Some(timeout) => match caught(|| tokio::time::timeout(timeout, future)) {
            Ok(timed) => timed.await.map_err(|_| Outcome::TimedOut),
            Err(message) => Err(Outcome::Panicked(message)),
        },
        None => Ok(future.await),
    }
}

async fn run_async(mut work: AsyncWork, ticket: &Ticket, timeout: Option<Duration>) -> Outcome {
    let supervisor = ticket.release.supervisor();
    let mut scope = Scope::new(ticket.release.tasks().clone());
    let mut begun = false;
    let polled = poll_fn(|cx| {
        let poll = caught(|| {
            scope.run(|| {
                ticket.span.in_scope(|| {
                    if !std::mem::replace(&mut begun, true) {
                        work.as_mut().begin(&|| ticket.context(supervisor.cancel_token().clone()));
                    }
                    work.as_mut().poll(cx)
                })
            })
        });
        match poll {
            Ok(poll) => poll.map(Ok),
            Err(message) => Poll::Ready(Err(message)),
        }
    });
    let result = unless_aborted(supervisor, within(timeout, polled)).await;
    quietly("a task's captured value", || scope.run(|| ticket.span.in_scope(|| drop(work))));
    result.map_or(Outcome::Cancelled, |result| result.map_or_else(|outcome| outcome, outcome_of))
}

async fn run_blocking(work: BlockingWork, ticket: &Ticket, timeout: Option<Duration>, place: Place) -> Outcome {
    let supervisor = ticket.release.supervisor();
    let token = supervisor.cancel_token().child_token();
    let context = ticket.context(token.clone());
    let mut scope = Scope::new(ticket.release.tasks().clone());
    let span = ticket.span.clone();
    let thread = tokio::task::spawn_blocking(move || {
        // Held until the function has really returned, also where nobody waits for it any more.
        let _place = place;
        caught(|| scope.run(|| span.in_scope(|| work(context))))
    });
    let unstarted = thread.abort_handle();
    let outcome = match unless_aborted(supervisor, within(timeout, thread)).await {
        Some(Ok(Ok(result))) => return outcome_of(result),
        Some(Ok(Err(_the_runtime_went_down))) => return Outcome::Cancelled,
        Some(Err(timed_out)) => timed_out,
        None => Outcome::Cancelled,
    };
    // A function that has not begun never will; one that runs is told.
    unstarted.abort();
    token.cancel();
    outcome
}

fn outcome_of(result: Result<WorkResult, String>) -> Outcome {
    match result {
        Ok(Ok(())) => Outcome::Succeeded,
        Ok(Err(error)) => Outcome::Failed(error),
        Err(message) => Outcome::Panicked(message),
    }
}
