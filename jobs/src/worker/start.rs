//! Starts a job: a task in the runtime of the handlers.

use std::{sync::Arc, time::Instant};

use serde::de::DeserializeOwned;
use tokio::task::Id;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Handler,
    end::Failure,
    run::{Run, Runner},
};
use crate::{
    job::{JobContext, JobError},
    message::Message,
    meter,
};

impl<J: DeserializeOwned + Send + 'static> Runner<J> {
    pub(super) fn start(&mut self, mut message: Message) -> Id {
        let token = CancellationToken::new();
        self.claims.add(message.claim, token.clone());
        let (queue, id) = (self.inner.name.as_str(), message.claim.id);
        let waited = message.enqueued_at.elapsed().unwrap_or_default();
        let attempt = message.attempt();
        let cx = JobContext::new(&message, queue, self.config.max_attempts, token);
        let span = tracing::info_span!(parent: None, "job", queue, id, attempt);
        let body = std::mem::take(&mut message.body);
        let handler = Arc::clone(&self.handler);
        let stop = self.stop.clone();
        let observed = self.config.observers.need_errors();
        let job = async move {
            let result = match decode(&body) {
                Ok(job) => run(&*handler, job, cx, &stop).await,
                Err(error) => Err(error),
            };
            // Here and not later: the code of the user's error may panic.
            result.map_err(|error| Failure::new(error, observed))
        };
        meter::started(queue, waited);
        self.config.observers.started(queue, waited);
        let started = Instant::now();
        let id = self
            .jobs
            .spawn_on(job.instrument(span), &self.handlers)
            .id();
        let run = Run {
            message,
            started,
            waited,
        };
        self.running.insert(id, run);
        id
    }
}

/// An older process meets the jobs of a newer one during a deployment. So a job that can not be
/// decoded is tried again.
fn decode<J: DeserializeOwned>(body: &str) -> Result<J, JobError> {
    serde_json::from_str(body).map_err(|error| format!("can not decode the job: {error}").into())
}

/// Runs the handler. Its token is cancelled when the worker stops.
async fn run<J>(
    handler: &Handler<J>,
    job: J,
    cx: JobContext,
    stop: &CancellationToken,
) -> Result<(), JobError> {
    let token = cx.token().clone();
    let mut running = handler(job, cx);
    tokio::select! {
        result = &mut running => return result,
        () = stop.cancelled() => token.cancel(),
    }
    running.await
}
