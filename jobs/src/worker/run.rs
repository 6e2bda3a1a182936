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
    task::{Id, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Handler,
    claims::{self, Claims},
    end::Failure,
    house,
    report::Counters,
    settler::Settler,
};
use crate::{
    backoff::jitter,
    engine::{Settled, Wake},
    message::Message,
    queue::Inner,
};

/// A job that took its process along twice runs alone from then on.
const DEATHS_OF_A_SUSPECT: u32 = 2;

pub(super) struct Runner<J> {
    pub(super) inner: Arc<Inner>,
    pub(super) handler: Arc<Handler<J>>,
    pub(super) config: Config,
    pub(super) handlers: Handle,
    pub(super) stop: CancellationToken,
    pub(super) abort: CancellationToken,
    pub(super) counters: Arc<Counters>,
    pub(super) claims: Arc<Claims>,
    pub(super) jobs: JoinSet<Result<(), Failure>>,
    pub(super) running: HashMap<Id, Run>,
    pub(super) suspect: Option<Message>,
    pub(super) ended: mpsc::UnboundedSender<Settled>,
    pub(super) settler: Option<mpsc::UnboundedReceiver<Settled>>,
}

/// A job that runs.
pub(super) struct Run {
    pub(super) message: Message,
    pub(super) started: Instant,
    pub(super) waited: Duration,
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
            () = house::keep(&inner, keep) => {}
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
    pub(super) async fn wait(&mut self, until: impl Future<Output = ()>) {
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
