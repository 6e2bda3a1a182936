//! The loop of a worker: reads messages for its free places, runs them, and notes their ends.

use std::{
    collections::HashMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Config, Handler, JobOutcome, JobReport,
    claims::{self, Claims},
    report::Counters,
    settler::Settler,
};
use crate::{
    backoff::jitter,
    engine::{Settled, Settlement, Wake},
    job::{JobContext, JobError, Then},
    message::Message,
    meter,
    queue::Inner,
};

/// A job that took its process along twice runs alone from then on.
const DEATHS_OF_A_SUSPECT: u32 = 2;

/// After this time a job that runs alone has shown that it does not kill its process at once.
const ALONE: Duration = Duration::from_mins(5);

pub(super) struct Runner<J> {
    inner: Arc<Inner>,
    handler: Arc<Handler<J>>,
    config: Config,
    handlers: Handle,
    stop: CancellationToken,
    abort: CancellationToken,
    counters: Arc<Counters>,
    claims: Arc<Claims>,
    jobs: JoinSet<Result<(), JobError>>,
    running: HashMap<Id, Run>,
    suspect: Option<Message>,
    ended: mpsc::UnboundedSender<Settled>,
    settler: Option<mpsc::UnboundedReceiver<Settled>>,
}

/// A job that runs.
struct Run {
    message: Message,
    started: Instant,
    waited: Duration,
}

impl<J: DeserializeOwned + Send + 'static> Runner<J> {
    pub(super) fn new(
        inner: Arc<Inner>,
        handler: Arc<Handler<J>>,
        config: Config,
        handlers: Handle,
        (stop, abort): (CancellationToken, CancellationToken),
        (counters, claims): (Arc<Counters>, Arc<Claims>),
    ) -> Self {
        let (ended, settler) = mpsc::unbounded_channel();
        Self {
            inner,
            handler,
            config,
            handlers,
            stop,
            abort,
            counters,
            claims,
            jobs: JoinSet::new(),
            running: HashMap::new(),
            suspect: None,
            ended,
            settler: Some(settler),
        }
    }

    /// Runs until the worker is stopped and the ends of its jobs are written.
    pub(super) async fn run(mut self) {
        let (inner, claims) = (Arc::clone(&self.inner), Arc::clone(&self.claims));
        let counters = Arc::clone(&self.counters);
        let settler = Settler {
            inner: Arc::clone(&inner),
            claims: Arc::clone(&claims),
            counters,
        };
        let Some(ended) = self.settler.take() else {
            return;
        };
        let (invisible, keep) = (self.config.invisible, self.config.keep_archived);
        let work = async move {
            self.take_jobs().await;
            self.finish().await;
        };
        tokio::select! {
            // `work` drops the sender, then the settler writes the rest and ends.
            _ = async { tokio::join!(work, settler.run(ended)) } => {}
            () = claims::extend(&inner, &claims, invisible) => {}
            () = keep_house(&inner, keep) => {}
        }
    }

    async fn take_jobs(&mut self) {
        let inner = Arc::clone(&self.inner);
        let wake = inner.engine.wake(&inner.name);
        let mut pause = Duration::from_millis(50);
        while !self.stop.is_cancelled() {
            while let Some(ended) = self.jobs.try_join_next_with_id() {
                self.ended(ended);
            }
            if let Some(suspect) = self.suspect.take() {
                self.run_alone(suspect).await;
                continue;
            }
            let free = self.config.concurrency.saturating_sub(self.running.len());
            if free == 0 {
                self.wait(std::future::pending()).await;
                continue;
            }
            match inner
                .engine
                .read(&inner.name, free, self.config.invisible)
                .await
            {
                Ok(batch) => {
                    pause = Duration::from_millis(50);
                    let all_taken = batch.messages.len() < free;
                    self.begin(batch.messages);
                    if all_taken && self.suspect.is_none() {
                        self.sleep(&wake, batch.next).await;
                    }
                }
                Err(error) => {
                    let queue = inner.name.as_str();
                    tracing::warn!(queue, %error, "a worker can not read");
                    self.wait(sleep(pause / 2 + jitter(pause))).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// Waits for new messages. Jobs that end meanwhile are noted.
    async fn sleep(&mut self, wake: &Wake, next: Option<Duration>) {
        let poll = self.inner.engine.poll_interval();
        let mut until = pin!(sleep(next.map_or(poll, |next| next.min(poll))));
        let mut notified = pin!(wake.notified());
        loop {
            tokio::select! {
                () = &mut notified => return,
                () = &mut until => return,
                () = self.stop.cancelled() => return,
                Some(ended) = self.jobs.join_next_with_id() => self.ended(ended),
            }
        }
    }

    /// Waits for the end of one job, for `until`, or for the stop.
    async fn wait(&mut self, until: impl Future<Output = ()>) {
        tokio::select! {
            Some(ended) = self.jobs.join_next_with_id() => self.ended(ended),
            () = self.stop.cancelled() => {}
            () = until => {}
        }
    }

    fn begin(&mut self, messages: Vec<Message>) {
        for message in messages {
            // It is extended from now on, also while it waits to run alone.
            self.claims.add(message.claim, CancellationToken::new());
            let deaths = message.deaths();
            let is_over = message.attempt() > self.config.max_attempts && deaths > 0;
            if is_over && message.ran_alone() {
                self.bury(&message);
            } else if !is_over && deaths < DEATHS_OF_A_SUSPECT {
                self.start(message);
            } else if self.suspect.is_none() {
                self.suspect = Some(message);
            } else {
                // One at a time. Not all at once later on: other workers would read them together.
                self.give_back(&message, jitter(self.config.invisible));
            }
        }
    }

    /// Runs a job that may kill the process when no other job runs.
    ///
    /// Jobs that take longer than a message is invisible are not waited for: they would keep all
    /// others from starting.
    async fn run_alone(&mut self, mut suspect: Message) {
        let invisible = self.config.invisible;
        let over = sleep(invisible);
        let mut over = pin!(over);
        while !self.running.is_empty() && !over.is_elapsed() && !self.stop.is_cancelled() {
            self.wait(over.as_mut()).await;
        }
        if self.stop.is_cancelled() {
            return self.give_back(&suspect, Duration::ZERO);
        }
        if !self.note_alone(&mut suspect).await {
            // The message becomes visible by itself.
            return self.claims.remove(suspect.claim);
        }
        let id = self.start(suspect);
        let mut over = pin!(sleep(ALONE));
        while self.running.contains_key(&id) && !over.is_elapsed() && !self.stop.is_cancelled() {
            self.wait(over.as_mut()).await;
        }
    }

    /// Writes to the message that its job runs alone. A read whose reply got lost looks the same as
    /// a death, so only this note shows later that the job really ran. Returns whether it is written.
    async fn note_alone(&self, suspect: &mut Message) -> bool {
        suspect.headers = suspect.before_run_alone();
        let note = Settled {
            claim: suspect.claim,
            end: Settlement::Return(self.config.invisible, suspect.headers.clone()),
        };
        let noted = self.inner.engine.settle(&self.inner.name, &[note]).await;
        if let Err(error) = &noted {
            let (queue, id) = (self.inner.name.as_str(), suspect.claim.id);
            tracing::warn!(queue, id, %error, "a job can not run alone yet");
        }
        noted.is_ok_and(|kept| !kept.is_empty())
    }

    fn start(&mut self, mut message: Message) -> Id {
        let token = CancellationToken::new();
        self.claims.add(message.claim, token.clone());
        let (queue, claim) = (self.inner.name.as_str(), message.claim);
        let waited = message.enqueued_at.elapsed().unwrap_or_default();
        let attempt = message.attempt();
        let cx = JobContext::new(&message, queue, self.config.max_attempts, token);
        let span = tracing::info_span!(parent: None, "job", queue, id = claim.id, attempt);
        let body = std::mem::take(&mut message.body);
        let handler = Arc::clone(&self.handler);
        let stop = self.stop.clone();
        let job = async move {
            // An older process meets the jobs of a newer one during a deployment. So a job that
            // can not be decoded is tried again.
            let job = serde_json::from_str(&body)
                .map_err(|error| JobError::from(format!("can not decode the job: {error}")))?;
            drop(body);
            run(&*handler, job, cx, &stop).await
        };
        let id = self
            .jobs
            .spawn_on(job.instrument(span), &self.handlers)
            .id();
        meter::started(queue, waited);
        self.running.insert(
            id,
            Run {
                message,
                started: Instant::now(),
                waited,
            },
        );
        id
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), JobError>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => {
                let id = error.id();
                let result = if let Ok(panic) = error.try_into_panic() {
                    JobError::panicked(&text_of(&*panic))
                } else {
                    // We abort jobs only at the very end. So the runtime of the handlers is gone.
                    self.stop.cancel();
                    JobError::snooze(Duration::ZERO)
                };
                (id, Err(result))
            }
        };
        if let Some(run) = self.running.remove(&id) {
            self.note(&run, result);
        }
    }

    fn note(&self, run: &Run, result: Result<(), JobError>) {
        let Run {
            message,
            started,
            waited,
        } = run;
        let attempt = message.attempt();
        let is_last = attempt >= self.config.max_attempts;
        let error = result.as_ref().err().map(ToString::to_string);
        let text = error.as_deref().unwrap_or_default();
        let retry = |delay: Duration| {
            let end = Settlement::Return(delay, message.after_failure(text));
            (end, JobOutcome::Failed(delay))
        };
        let (end, outcome) = match result.map_err(|error| error.then) {
            Ok(()) => (Settlement::Delete, JobOutcome::Done),
            Err(Then::Snooze(delay)) => (
                Settlement::Return(delay, message.after_return()),
                JobOutcome::Returned,
            ),
            Err(Then::Retry) if !is_last => retry(self.config.backoff.delay(attempt)),
            Err(Then::RetryIn(delay)) if !is_last => retry(delay),
            Err(_) => (
                Settlement::Archive(message.after_failure(text)),
                JobOutcome::Archived,
            ),
        };
        let (queue, id) = (self.inner.name.as_str(), message.claim.id);
        match outcome {
            JobOutcome::Failed(delay) => {
                tracing::warn!(queue, id, attempt, ?delay, error = text, "a job failed");
            }
            JobOutcome::Archived => {
                tracing::error!(queue, id, attempt, error = text, "a job failed for good");
            }
            JobOutcome::Done | JobOutcome::Returned => {}
        }
        let ran = started.elapsed();
        self.settle(message, end);
        self.counters.add(outcome);
        meter::ended(queue, outcome, ran);
        let id = message.claim.id;
        self.config.ended(&JobReport {
            id,
            attempt,
            outcome,
            error,
            waited: *waited,
            ran,
        });
    }

    /// Archives a job whose process died in its last attempt.
    fn bury(&self, message: &Message) {
        let (queue, id) = (self.inner.name.as_str(), message.claim.id);
        let deaths = message.deaths();
        let error = format!("the process died {deaths} times while this job ran");
        tracing::error!(queue, id, error, "a job failed for good");
        self.settle(message, Settlement::Archive(message.with_error(&error)));
        self.counters.add(JobOutcome::Archived);
        meter::ended(queue, JobOutcome::Archived, Duration::ZERO);
    }

    fn give_back(&self, message: &Message, delay: Duration) {
        self.settle(message, Settlement::Return(delay, message.after_return()));
    }

    fn settle(&self, message: &Message, end: Settlement) {
        // The receiver lives until this sender is dropped.
        let _ = self.ended.send(Settled {
            claim: message.claim,
            end,
        });
    }

    /// Waits for the jobs that run, until they are to be aborted.
    async fn finish(mut self) {
        if let Some(suspect) = self.suspect.take() {
            self.give_back(&suspect, Duration::ZERO);
        }
        let abort = self.abort.clone();
        loop {
            tokio::select! {
                ended = self.jobs.join_next_with_id() => match ended {
                    Some(ended) => self.ended(ended),
                    None => break,
                },
                () = abort.cancelled() => break,
            }
        }
        self.jobs.abort_all();
        while let Some(ended) = self.jobs.join_next_with_id().await {
            self.ended(ended);
        }
    }
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

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no text".to_owned())
}

/// Deletes old archived jobs, and measures the queue. Never ends.
async fn keep_house(inner: &Inner, keep: Option<Duration>) {
    const PURGE: Duration = Duration::from_hours(1);
    let mut purge = jitter(Duration::from_mins(1));
    loop {
        sleep(purge.min(meter::INTERVAL)).await;
        purge = purge.saturating_sub(meter::INTERVAL);
        meter::depth(inner).await;
        let Some(keep) = keep.filter(|_| purge.is_zero()) else {
            continue;
        };
        purge = PURGE;
        while matches!(inner.engine.purge(&inner.name, keep).await, Ok(10_000..)) {}
    }
}
