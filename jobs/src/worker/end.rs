//! Notes how a job ended: what becomes of its message, and who is told.

use std::{any::Any, time::Duration};

use tokio::task::{Id, JoinError};
use tower_background::Outcome;

use super::{
    JobOutcome, JobReport,
    run::{Run, Runner},
};
use crate::{
    engine::{Settled, Settlement},
    job::{JobError, Then},
    message::Message,
    meter,
};

/// Why a run did not succeed.
pub(super) struct Failure {
    then: Then,
    text: String,
    /// For observers. `None` if there are none.
    outcome: Option<Outcome>,
}

impl Failure {
    pub(super) fn new(error: JobError, observed: bool) -> Self {
        let text = error.to_string();
        let then = error.then;
        let outcome = observed.then(|| match then {
            Then::Snooze(_) => Outcome::Skipped,
            _ => Outcome::Failed(error.source),
        });
        Self {
            then,
            text,
            outcome,
        }
    }

    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let text = text.unwrap_or_else(|| "no text".to_owned());
        Self {
            then: Then::Retry,
            text: format!("panicked: {text}"),
            outcome: Some(Outcome::Panicked(text)),
        }
    }

    fn aborted() -> Self {
        Self {
            then: Then::Snooze(Duration::ZERO),
            text: "aborted".to_owned(),
            outcome: Some(Outcome::Aborted),
        }
    }
}

impl<J> Runner<J> {
    pub(super) fn ended(&mut self, ended: Result<(Id, Result<(), Failure>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => {
                let id = error.id();
                let failure = if let Ok(panic) = error.try_into_panic() {
                    Failure::panicked(&*panic)
                } else {
                    // We abort jobs only at the very end. So the runtime of the handlers is gone.
                    self.stop.cancel();
                    Failure::aborted()
                };
                (id, Err(failure))
            }
        };
        if let Some(run) = self.running.remove(&id) {
            self.note(&run, result);
        }
    }

    fn note(&self, run: &Run, result: Result<(), Failure>) {
        let message = &run.message;
        let (then, error, outcome) = match result {
            Ok(()) => (None, None, Some(Outcome::Succeeded)),
            Err(failure) => (Some(failure.then), Some(failure.text), failure.outcome),
        };
        let text = error.as_deref().unwrap_or_default();
        let (end, job_outcome) = self.decide(message, then, text);
        let ran = run.started.elapsed();
        let report = JobReport {
            id: message.claim.id,
            attempt: message.attempt(),
            outcome: job_outcome,
            error,
            waited: run.waited,
            ran: Some(ran),
        };
        meter::ran(self.inner.name.as_str(), ran);
        self.tell(message, end, &report, outcome);
    }

    /// Decides what becomes of a message whose job ran.
    fn decide(
        &self,
        message: &Message,
        then: Option<Then>,
        error: &str,
    ) -> (Settlement, JobOutcome) {
        let attempt = message.attempt();
        let is_last = attempt >= self.config.max_attempts;
        let delay = match then {
            None => return (Settlement::Delete, JobOutcome::Done),
            Some(Then::Snooze(delay)) => {
                let end = Settlement::Return(delay, message.after_return());
                return (end, JobOutcome::Returned);
            }
            Some(Then::Retry) if !is_last => self.config.backoff.delay(attempt),
            Some(Then::RetryIn(delay)) if !is_last => delay,
            Some(_) => {
                let end = Settlement::Archive(message.after_failure(error));
                return (end, JobOutcome::Archived);
            }
        };
        let end = Settlement::Return(delay, message.after_failure(error));
        (end, JobOutcome::Failed(delay))
    }

    /// Archives a job whose process died in its last attempt.
    pub(super) fn bury(&self, message: &Message) {
        let deaths = message.deaths();
        let error = format!("the process died {deaths} times while this job ran");
        let end = Settlement::Archive(message.with_error(&error));
        let outcome = Outcome::Failed(error.clone().into());
        let report = JobReport {
            id: message.claim.id,
            attempt: message.attempt() - 1,
            outcome: JobOutcome::Archived,
            error: Some(error),
            waited: message.enqueued_at.elapsed().unwrap_or_default(),
            ran: None,
        };
        self.tell(message, end, &report, Some(outcome));
    }

    /// Has the end written, and tells logs, counters and observers.
    fn tell(
        &self,
        message: &Message,
        end: Settlement,
        report: &JobReport,
        outcome: Option<Outcome>,
    ) {
        self.settle(message, end);
        let queue = self.inner.name.as_str();
        let JobReport { id, attempt, .. } = *report;
        let error = report.error.as_deref();
        match report.outcome {
            JobOutcome::Failed(delay) => {
                tracing::warn!(queue, id, attempt, ?delay, error, "a job failed");
            }
            JobOutcome::Archived => {
                tracing::error!(queue, id, attempt, error, "a job failed for good");
            }
            JobOutcome::Done | JobOutcome::Returned => {}
        }
        self.counters.add(report.outcome);
        meter::ended(queue, report.outcome);
        self.config.observers.ended(queue, report, outcome);
    }

    pub(super) fn give_back(&self, message: &Message, delay: Duration) {
        self.settle(message, Settlement::Return(delay, message.after_return()));
    }

    fn settle(&self, message: &Message, end: Settlement) {
        // The receiver lives until this sender is dropped.
        let _ = self.ended.send(Settled {
            claim: message.claim,
            end,
        });
    }
}
