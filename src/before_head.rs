//! The jobs that the head of a response waits for.
//!
//! They are collected among the request's other tasks, each in its place in the books, and taken out when the service has its
//! answer: they are released then, and not by the end of the response.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    hand_off_error::HandOffError,
    job::Job,
    meter,
    order::Order,
    outcome::Outcome,
    queue::Queue,
    refusal::Refusal,
    registry::{BeforeHead, Slot},
    report::TaskState,
    task::{Header, Task},
    tasks::BackgroundTasks,
    when::When,
};

type Write = Pin<Box<dyn Future<Output = Result<(), HandOffError>> + Send>>;

/// The jobs of one request while they are written.
pub(crate) struct Writes {
    waiting: VecDeque<Job>,
    running: Vec<Write>,
    order: Order,
    result: Result<(), HandOffError>,
}

impl Slot {
    /// Whether a task that the head is to wait for can be taken; after the head it is one as any other.
    ///
    /// # Errors
    ///
    /// Why it can't.
    pub(crate) fn admit_before_head(&self, header: &mut Header) -> Result<(), Refusal> {
        match self.before_head {
            _ if !header.before_head => Ok(()),
            BeforeHead::Passed => {
                header.before_head = false;
                Ok(())
            }
            BeforeHead::Unknown => Err(Refusal::NoHead),
            BeforeHead::Awaited(_) => match header.when.holds_before_head(StatusCode::OK, None) {
                Some(_) => Ok(()),
                None => Err(Refusal::ConditionOfEnd),
            },
        }
    }

    /// Notes that the head is not to tell of success, if it waits for this task.
    pub(crate) fn note_refused(&mut self, header: &Header, why: Refusal) {
        if header.before_head && matches!(self.before_head, BeforeHead::Awaited(_)) {
            self.rare().refused = Some(HandOffError::refused(header.name.clone(), why));
        }
    }

    const fn layers_before_head(&self) -> u8 {
        match self.before_head {
            BeforeHead::Awaited(layers) => layers,
            BeforeHead::Unknown | BeforeHead::Passed => 0,
        }
    }
}

impl BackgroundTasks {
    /// Notes that a layer has the head wait: also another one after the first, where a layer farther out asks again.
    pub(crate) fn await_before_head(&self) {
        let mut slot = self.registry.slot();
        if slot.before_head != BeforeHead::Passed || !slot.released {
            slot.before_head = BeforeHead::Awaited(slot.layers_before_head().saturating_add(1));
        }
    }

    /// Takes out what a head with this status waits for, to be written.
    ///
    /// # Errors
    ///
    /// A job was refused.
    pub(crate) fn writes_before_head(
        &self,
        status: StatusCode,
        grpc_status: Option<i32>,
    ) -> Result<Option<Writes>, HandOffError> {
        let (order, mut jobs, refused) = self.take_before_head(|_| true);
        if let Some(error) = refused {
            while let Some(job) = jobs.pop() {
                self.take_back(job);
            }
            return Err(error);
        }
        if jobs.is_empty() {
            return Ok(None);
        }
        self.supervisor().ledger().release(&mut jobs);
        meter::moved(Some(TaskState::Collected), Some(TaskState::Waiting), jobs.len());
        let mut waiting = VecDeque::with_capacity(jobs.len() as usize);
        while let Some(mut task) = jobs.pop() {
            task.header_mut().added = Some(Instant::now());
            let holds = task.header().when.holds_before_head(status, grpc_status).unwrap_or(false);
            let job = Job::new(task, self.clone());
            if holds {
                waiting.push_back(job);
            } else {
                job.end(Outcome::Skipped);
            }
        }
        Ok(Some(Writes { waiting, running: Vec::new(), order, result: Ok(()) }))
    }

    /// Takes back what the head was to wait for, as there is none of this service; but for what is to be done in any case.
    pub(crate) fn no_head(&self) {
        let (_, mut jobs, _) = self.take_before_head(|task| !matches!(task.header().when, When::Always));
        while let Some(job) = jobs.pop() {
            self.take_back(job);
        }
    }

    fn take_before_head(&self, which: impl Fn(&Task) -> bool) -> (Order, Queue, Option<HandOffError>) {
        let mut slot = self.registry.slot();
        let layers = slot.layers_before_head();
        slot.before_head = if layers > 1 { BeforeHead::Awaited(layers - 1) } else { BeforeHead::Passed };
        let order = slot.order.unwrap_or(self.supervisor().policy().order);
        let refused = slot.rare_if_any().and_then(|rare| rare.refused.take());
        let jobs =
            if slot.released { Queue::default() } else { slot.queue.extract(|task| task.header().before_head && which(task)) };
        (order, jobs, refused)
    }
}

async fn write(mut job: Job) -> Result<(), HandOffError> {
    let outcome = job.run_async().await;
    let result = HandOffError::of(job.name(), &outcome);
    job.end(outcome);
    result
}

impl Writes {
    /// Writes the jobs in the request's order. Ready when all are over, with the first error.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandOffError>> {
        loop {
            let sequential = self.order != Order::Concurrent;
            while self.running.is_empty() || !sequential {
                let Some(job) = self.waiting.pop_front() else { break };
                self.running.push(Box::pin(write(job)));
            }
            self.running.retain_mut(|write| match write.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    self.result = std::mem::replace(&mut self.result, Ok(())).and(result);
                    false
                }
                Poll::Pending => true,
            });
            if self.order == Order::FailFast && self.result.is_err() {
                for job in self.waiting.drain(..) {
                    job.end(Outcome::Skipped);
                }
            }
            if !self.running.is_empty() {
                return Poll::Pending;
            }
            if self.waiting.is_empty() {
                return Poll::Ready(std::mem::replace(&mut self.result, Ok(())));
            }
        }
    }
}
