//! The life of one task after its release, from waiting to its one outcome.

use std::{borrow::Cow, future::poll_fn, pin::Pin, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    batch::Release,
    context::TaskContext,
    current::Scope,
    outcome::Outcome,
    panics::{caught, quietly},
    task::{Kind, Task},
    when::When,
    work::{BlockingWork, Work, WorkResult},
};

/// A released task.
pub(crate) struct Job {
    ticket: Ticket,
    kind: Kind,
    when: When,
    timeout: Option<Duration>,
}

impl Job {
    pub(crate) fn new(release: Release, task: Task) -> Self {
        let Task { kind, name, timeout, when } = task;
        let timeout = timeout.or(release.tasks().supervisor().policy().task_timeout);
        Self { ticket: Ticket { release, name, running: false, ended: false }, kind, when, timeout }
    }

    /// Runs the task to its end.
    pub(crate) async fn run(self) {
        let Self { mut ticket, kind, when, timeout } = self;
        let outcome = match caught(|| when.holds(ticket.release.end())) {
            Ok(true) => {
                ticket.start();
                match kind {
                    Kind::Async(work) => run_async(work, &ticket, timeout).await,
                    Kind::Blocking(work) => run_blocking(work, &ticket, timeout).await,
                }
            }
            Ok(false) => {
                quietly(|| drop(kind));
                Outcome::Skipped
            }
            Err(message) => Outcome::Panicked(message),
        };
        ticket.end(outcome);
    }
}

/// A released task's place in the books. Its drop before the end counts the task as cancelled, so that none is lost when a
/// runtime drops what it has.
struct Ticket {
    release: Release,
    name: Option<Cow<'static, str>>,
    running: bool,
    ended: bool,
}

impl Ticket {
    fn context(&self) -> TaskContext {
        TaskContext { release: self.release.clone(), name: self.name.clone(), token: CancellationToken::new() }
    }

    fn start(&mut self) {
        self.running = true;
        self.release.tasks().supervisor().ledger().start();
    }

    /// The one place where a released task gets its outcome.
    fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.release.tasks().supervisor().ledger().end(self.running, &outcome);
        let task = self.name.as_deref().unwrap_or_default();
        let path = self.release.end().path();
        match outcome {
            Outcome::Succeeded | Outcome::Skipped | Outcome::Refused => {}
            Outcome::Cancelled => crate::log::warn!(task = task, path = path, "a task was dropped before its end"),
            Outcome::TimedOut => crate::log::error!(task = task, path = path, "a task ran longer than its timeout"),
            Outcome::Failed(error) => crate::log::error!(task = task, path = path, error = %error, "a task failed"),
            Outcome::Panicked(message) => crate::log::error!(task = task, path = path, panic = message, "a task panicked"),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() {
            Outcome::Panicked("outside of the task's own code".to_owned())
        } else {
            Outcome::Cancelled
        });
    }
}

async fn run_async(mut work: Pin<Box<dyn Work>>, ticket: &Ticket, timeout: Option<Duration>) -> Outcome {
    let mut scope = Scope::new(ticket.release.tasks().clone());
    let mut begun = false;
    let result = within(
        timeout,
        poll_fn(|cx| {
            scope
                .run(|| {
                    caught(|| {
                        if !std::mem::replace(&mut begun, true) {
                            work.as_mut().begin(&|| ticket.context());
                        }
                        work.as_mut().poll(cx)
                    })
                })
                .map_or_else(|message| Err(message).into(), |poll| poll.map(Ok))
        }),
    )
    .await;
    scope.run(|| quietly(|| drop(work)));
    result.map_or(Outcome::TimedOut, outcome)
}

async fn run_blocking(work: BlockingWork, ticket: &Ticket, timeout: Option<Duration>) -> Outcome {
    let context = ticket.context();
    let token = context.token.clone();
    let mut scope = Scope::new(context.tasks());
    let thread = tokio::task::spawn_blocking(move || scope.run(|| caught(|| work(context))));
    match within(timeout, thread).await {
        Some(Ok(result)) => outcome(result),
        Some(Err(_the_runtime_went_down)) => Outcome::Cancelled,
        None => {
            token.cancel();
            Outcome::TimedOut
        }
    }
}

async fn within<F: Future>(timeout: Option<Duration>, future: F) -> Option<F::Output> {
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, future).await.ok(),
        None => Some(future.await),
    }
}

fn outcome(result: Result<WorkResult, String>) -> Outcome {
    match result {
        Ok(Ok(())) => Outcome::Succeeded,
        Ok(Err(error)) => Outcome::Failed(error),
        Err(message) => Outcome::Panicked(message),
    }
}
