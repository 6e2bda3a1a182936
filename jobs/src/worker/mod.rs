//! [`Worker`]: runs the jobs of a queue.

mod alone;
mod claims;
mod end;
mod house;
mod observers;
mod report;
mod run;
mod running;
mod settler;
mod start;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower_background::Observer;

use self::{claims::Claims, observers::Observers, report::Counters, run::Runner};
pub use self::{
    report::{Counts, JobOutcome, JobReport},
    running::RunningWorker,
};
use crate::{
    Backoff,
    job::{JobContext, JobError},
    queue::Inner,
};

type Running = Pin<Box<dyn Future<Output = Result<(), JobError>> + Send>>;
type Handler<J> = dyn Fn(J, JobContext) -> Running + Send + Sync;

/// A worker that is not yet started, made by [`JobQueue::worker`](crate::JobQueue::worker).
///
/// Handlers run in the runtime where [`start`](Self::start) is called, each in a tokio task. The
/// worker itself runs on the thread of the engine, so a handler that blocks does not stop it.
#[must_use = "a worker does nothing until it is started"]
pub struct Worker<J> {
    inner: Arc<Inner>,
    handler: Arc<Handler<J>>,
    config: Config,
}

#[derive(Clone)]
pub(crate) struct Config {
    concurrency: usize,
    invisible: Duration,
    max_attempts: u32,
    backoff: Backoff,
    keep_archived: Option<Duration>,
    observers: Observers,
}

impl<J: DeserializeOwned + Send + 'static> Worker<J> {
    pub(crate) fn new<H, F>(inner: Arc<Inner>, handler: H) -> Self
    where
        H: Fn(J, JobContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let handler: Arc<Handler<J>> = Arc::new(move |job, cx| Box::pin(handler(job, cx)));
        let config = Config {
            concurrency: 16,
            invisible: Duration::from_secs(30),
            max_attempts: 25,
            backoff: Backoff::default(),
            keep_archived: Some(Duration::from_hours(336)),
            observers: Observers::default(),
        };
        Self {
            inner,
            handler,
            config,
        }
    }

    /// Sets how many jobs run at the same time. The default is 16.
    ///
    /// # Panics
    ///
    /// If `jobs` is zero.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "a worker needs a concurrency of at least 1");
        self.config.concurrency = jobs;
        self
    }

    /// Sets how soon a job runs again if the process of its worker died. The default is 30 s.
    ///
    /// A job may take longer: the worker extends the time while the job runs.
    ///
    /// # Panics
    ///
    /// If `time` is less than 100 ms.
    pub fn invisible(mut self, time: Duration) -> Self {
        assert!(
            time >= Duration::from_millis(100),
            "a message must be invisible for 100 ms"
        );
        self.config.invisible = time;
        self
    }

    /// Sets how many times a job is tried before it is archived. The default is 25.
    ///
    /// A run whose process died counts as an attempt. A read whose reply got lost looks the same.
    /// So before a job is archived because of deaths, it runs once more, alone. It is archived if
    /// the process dies then too.
    ///
    /// # Panics
    ///
    /// If `attempts` is zero.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        assert!(attempts > 0, "a job needs at least one attempt");
        self.config.max_attempts = attempts;
        self
    }

    /// Sets the times between the attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// Sets how long archived jobs are kept. The default is 14 days; `None` keeps them for ever.
    pub fn keep_archived(mut self, time: Option<Duration>) -> Self {
        self.config.keep_archived = time;
        self
    }

    /// Calls `function` after each run, and for each job that is archived because its process died.
    ///
    /// It runs on the thread of the engine, so it should return quickly.
    pub fn on_end(mut self, function: impl Fn(&JobReport) + Send + Sync + 'static) -> Self {
        self.config.observers.on_end(function);
        self
    }

    /// Tells an observer of `tower-background` when jobs start and end, as if each run were a task
    /// with the name of the queue.
    ///
    /// | how the run ended | outcome |
    /// |---|---|
    /// | the job is done | `Succeeded` |
    /// | the handler returned an error, or the job did not decode | `Failed` |
    /// | the handler panicked | `Panicked` |
    /// | the handler snoozed the job | `Skipped` |
    /// | the worker stopped, and the grace was over | `Aborted` |
    /// | the job is archived because its process died | `Failed`, and it did not run |
    ///
    /// The observer runs on the thread of the engine, so it should return quickly.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.config.observers.observer(observer);
        self
    }

    /// Starts the worker. It runs until it is stopped, also if the returned handle is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(self) -> RunningWorker {
        let handlers = Handle::current();
        let stop = CancellationToken::new();
        let abort = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let claims = Arc::new(Claims::default());
        let runner = Runner::new(
            Arc::clone(&self.inner),
            self.handler,
            self.config,
            handlers,
            (stop.clone(), abort.clone()),
            (Arc::clone(&counters), Arc::clone(&claims)),
        );
        let task = self.inner.engine.runtime().spawn(runner.run());
        RunningWorker::new((stop, abort), (counters, claims), task)
    }
}

impl<J> fmt::Debug for Worker<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queue", &self.inner.name)
            .field("concurrency", &self.config.concurrency)
            .finish_non_exhaustive()
    }
}
