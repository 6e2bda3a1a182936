//! [`JobWorker`]: runs the jobs of a queue, in this process or in one of its own.
//!
//! It is not the worker of apalis, whose tables it works on. Of that, in 1.0.0:
//!
//! - One that asks at intervals, or by a stream, may miss its wake-up and sleep until its heartbeat: [`PollWith`] drops a tick
//!   that comes while it asks.
//! - A row that can not be read ends each worker that meets it, and so does the first error of the database: [`DurableBackend`]
//!   and [`SqliteTaskRow`] make that an error of the backend.
//! - A job that panics or blocks ends or holds up all others, unless it is spawned, and then stays as running:
//!   <https://github.com/apalis-dev/apalis/issues/639> tells of the panic.
//! - A job that fails has used up its 25 attempts within seconds: <https://github.com/apalis-dev/apalis/issues/554>.
//! - A name that is used again keeps what it has not ended from others: <https://github.com/apalis-dev/apalis/pull/507>.
//! - A job that kills its process is begun for ever: [what takes it up again] does not look at its attempts.
//!
//! [`PollWith`]: https://docs.rs/crate/apalis-core/1.0.0/source/src/backend/ext/poll_strategy/poll_with.rs
//! [`DurableBackend`]: https://docs.rs/crate/apalis-core/1.0.0/source/src/backend/finalize.rs
//! [`SqliteTaskRow`]: https://docs.rs/crate/apalis-sqlite/1.0.0/source/src/from_row.rs
//! [what takes it up again]: https://docs.rs/crate/apalis-sqlite/1.0.0/source/queries/backend/reenqueue_orphaned.sql

use std::{
    convert::Infallible,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use ulid::Ulid;

use crate::{
    job_queue::JobQueue,
    job_store::{JobStore, Taken, Verdict},
    panics::caught,
    pause::Pause,
    task::TaskOutput,
};

/// After which silence a worker is struck off, if that is longer than the time after which it counts as dead.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A job that a worker runs.
#[derive(Debug, Clone)]
pub struct Job<J> {
    args: J,
    id: String,
    attempt: u32,
}

impl<J> Job<J> {
    /// What was pushed.
    pub const fn args(&self) -> &J {
        &self.args
    }

    /// What was pushed, by value.
    pub fn into_args(self) -> J {
        self.args
    }

    /// The job's id, which is the same in each attempt: what makes an attempt harmless that comes after one that was cut off.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// Runs the jobs of a queue.
///
/// It is made to go on: a job that fails or panics is tried again later, as often as it may; one whose arguments are no `J` is
/// put aside as killed; a database that is away is waited for, while the jobs that run go on. Any number of workers may share a
/// queue, in any number of processes. Each has a name of its own, so what a process leaves undone that dies is taken up by the
/// others, or by itself when it is started again, [`dead_after`](Self::dead_after) later.
///
/// Each run of a worker has a row in the table of workers. One that starts strikes off those of its queue that have been silent
/// for a week, but for those that a job names: who ran it stays known as long as the job does.
///
/// A job may run more than once: if its worker died, was cut off for so long, or could not tell of its end. Jobs should bear
/// that; [`Job::id`] is the same each time.
///
/// Jobs run as tasks of tokio's. Work that blocks belongs into `tokio::task::spawn_blocking`: where all threads of the runtime
/// are blocked, the worker can not tell that it lives.
#[must_use = "a worker does nothing until it is run"]
pub struct JobWorker<S, J> {
    queue: JobQueue<S, J>,
    name: String,
    concurrency: usize,
    poll: Duration,
    dead_after: Duration,
    timeout: Option<Duration>,
    retry: (Duration, Duration),
}

impl<S: JobStore, J: Send + 'static> JobQueue<S, J> {
    /// A worker for the queue's jobs. Its name is for those who look at the tables, and need not be unique.
    pub fn worker(&self, name: impl Into<String>) -> JobWorker<S, J> {
        JobWorker {
            queue: self.clone(),
            name: name.into(),
            concurrency: 16,
            poll: Duration::from_millis(250),
            dead_after: Duration::from_secs(60),
            timeout: None,
            retry: (Duration::from_secs(1), Duration::from_secs(600)),
        }
    }
}

impl<S: JobStore, J: DeserializeOwned + Send + 'static> JobWorker<S, J> {
    /// How many jobs run at once; without a call of this, 16.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        assert!(jobs > 0, "a worker without places would run no job");
        self.concurrency = jobs;
        self
    }

    /// How often it looks for jobs that are due; without a call of this, each 250 ms. PostgreSQL tells it of most at once.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn poll(mut self, interval: Duration) -> Self {
        assert!(!interval.is_zero(), "a worker that never pauses would only ask");
        self.poll = interval;
        self
    }

    /// After which silence a worker counts as dead and others take its jobs; without a call of this, a minute, as with apalis.
    /// All workers of a queue should have the same.
    ///
    /// # Panics
    ///
    /// If it is shorter than two seconds: times are whole seconds in these tables.
    pub fn dead_after(mut self, silence: Duration) -> Self {
        assert!(silence >= Duration::from_secs(2), "a worker would count as dead while it lives");
        self.dead_after = silence;
        self
    }

    /// Ends an attempt, as a failed one, when it has run for this long. Without a call of this there is no such bound.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a timeout of zero would let no job run");
        self.timeout = Some(timeout);
        self
    }

    /// How long a job waits after its first attempt has failed, and at most after later ones: twice as long after each. Without
    /// a call of this, a second and ten minutes. Fractions of a second are dropped. How many attempts a job has is said when it
    /// is pushed; 25, if nothing is.
    pub const fn retry(mut self, first: Duration, longest: Duration) -> Self {
        self.retry = (first, longest);
        self
    }

    /// Runs jobs until `shutdown` is ready, then ends those that run, and returns. While the database is away this may take as
    /// long as the pool waits for a connection, and as the ends of jobs wait to be written: drop the future to wait no longer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it drops the jobs that run; they are taken up again by other workers, [`dead_after`](Self::dead_after) later.
    pub async fn run<H, F>(self, handler: H, shutdown: impl Future<Output = ()>)
    where
        H: Fn(Job<J>) -> F + Send + Sync + 'static,
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        let run = Arc::new(Run {
            // A name that was used before would make the worker wait for itself: its own unfinished jobs are not recovered.
            name: format!("{}-{}", self.name, Ulid::generate()),
            handler,
            worker: self,
        });
        run.run(pin!(shutdown)).await;
    }
}

/// One run of a worker.
struct Run<S, J, H> {
    name: String,
    handler: H,
    worker: JobWorker<S, J>,
}

impl<S, J, H, F> Run<S, J, H>
where
    S: JobStore,
    J: DeserializeOwned + Send + 'static,
    H: Fn(Job<J>) -> F + Send + Sync + 'static,
    F: Future<Output: TaskOutput> + Send + 'static,
{
    async fn run(self: Arc<Self>, mut shutdown: Pin<&mut impl Future<Output = ()>>) {
        if unless(shutdown.as_mut(), self.begin()).await.is_none() {
            return;
        }
        // Both end with this future, however it ends.
        let mut beside = JoinSet::new();
        let (sender, mut due) = mpsc::channel(1);
        let this = Arc::clone(&self);
        beside.spawn(async move { this.heartbeats().await });
        let this = Arc::clone(&self);
        beside.spawn(async move { this.listen(sender).await });

        let mut jobs = JoinSet::new();
        let mut pause = Pause::default();
        loop {
            while jobs.try_join_next().is_some() {}
            let places = self.worker.concurrency - jobs.len();
            let waited = if places == 0 {
                unless(shutdown.as_mut(), async { drop(jobs.join_next().await) }).await
            } else {
                // Not given up for a shutdown: what was taken then would be lost to all until this worker counts as dead.
                match self.store().take(&self.name, self.queue().name(), places).await {
                    Ok(taken) => {
                        pause = Pause::default();
                        let is_more = taken.len() == places;
                        for job in taken {
                            let this = Arc::clone(&self);
                            jobs.spawn(this.attempt(job));
                        }
                        let wait = async {
                            if !is_more {
                                // An error is the time that ran out, `None` a listener that has ended.
                                let _ = timeout(self.worker.poll, poll_fn(|cx| due.poll_recv(cx))).await;
                            }
                        };
                        unless(shutdown.as_mut(), wait).await
                    }
                    Err(error) => {
                        self.log("a worker can not take jobs", &*error);
                        unless(shutdown.as_mut(), pause.wait()).await
                    }
                }
            };
            if waited.is_none() {
                break;
            }
        }
        while jobs.join_next().await.is_some() {}
    }

    const fn queue(&self) -> &JobQueue<S, J> {
        &self.worker.queue
    }

    const fn store(&self) -> &S {
        self.worker.queue.store()
    }

    /// Makes the worker known, as soon as the database is there, and those forgotten that nobody needs to know any more.
    async fn begin(&self) {
        self.alive().await;
        if let Err(error) = self.store().forget(self.queue().name(), FORGOTTEN_AFTER.max(self.worker.dead_after)).await {
            // The next worker does it.
            self.log("a worker can not strike off the dead", &*error);
        }
    }

    /// Tells that the worker lives, as soon as the database is there.
    async fn alive(&self) {
        let mut pause = Pause::default();
        while let Err(error) = self.store().alive(&self.name, self.queue().name(), self.worker.dead_after).await {
            self.log("a worker can not tell that it lives", &*error);
            pause.wait().await;
        }
    }

    async fn heartbeats(&self) -> Infallible {
        loop {
            sleep(self.worker.dead_after / 6).await;
            self.alive().await;
        }
    }

    async fn listen(&self, due: mpsc::Sender<()>) -> Infallible {
        let mut pause = Pause::default();
        loop {
            if let Err(error) = self.store().listen(self.queue().name(), due.clone()).await {
                self.log("a worker is told of no new jobs, and asks for them", &*error);
            }
            pause.wait().await;
        }
    }

    async fn attempt(self: Arc<Self>, job: Taken) {
        let (id, attempt) = (job.id.clone(), job.attempt);
        let verdict = match serde_json::from_slice(&job.args) {
            Err(error) => Verdict::Killed(format!("its arguments are no {}: {error}", std::any::type_name::<J>())),
            Ok(args) => match self.handle(Job { args, id: job.id, attempt }).await {
                Ok(()) => Verdict::Done,
                Err(error) => Verdict::Failed(error, self.retry_after(attempt)),
            },
        };
        match &verdict {
            Verdict::Done => crate::log::debug!(queue = self.queue().name(), job = id, "a job is done"),
            Verdict::Failed(error, _) | Verdict::Killed(error) => {
                crate::log::error!(queue = self.queue().name(), job = id, attempt = attempt, error = error, "a job failed");
            }
        }
        let mut pause = Pause::default();
        while let Err(error) = self.store().finish(&self.name, &id, attempt, &verdict).await {
            self.log("a worker can not tell how a job ended", &*error);
            pause.wait().await;
        }
    }

    /// Runs the handler as a task of its own, so that a panic in it, or in what it drops, is an error like others.
    async fn handle(self: &Arc<Self>, job: Job<J>) -> Result<(), String> {
        let this = Arc::clone(self);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let result = (this.handler)(job).await.into_result();
            result.map_err(|error| caught(|| error.to_string()).unwrap_or_else(|panic| panic))
        });
        let joined = match self.worker.timeout {
            None => task.join_next().await,
            Some(limit) => match timeout(limit, task.join_next()).await {
                Ok(joined) => joined,
                Err(_) => return Err(format!("it ran longer than {limit:?}")),
            },
        };
        match joined {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(panic.to_string()),
            None => Err("it did not run".to_owned()),
        }
    }

    fn retry_after(&self, attempt: u32) -> Duration {
        let (first, longest) = self.worker.retry;
        first.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(longest)
    }

    fn log(&self, what: &'static str, error: &dyn std::error::Error) {
        crate::log::warn!(worker = self.name, what = what, error = %error, "a worker has no database");
    }
}

/// What `other` gives, or nothing if `shutdown` is ready before.
async fn unless<T>(mut shutdown: Pin<&mut impl Future<Output = ()>>, other: impl Future<Output = T>) -> Option<T> {
    let mut other = pin!(other);
    poll_fn(|cx| match shutdown.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => other.as_mut().poll(cx).map(Some),
    })
    .await
}

impl<S, J> fmt::Debug for JobWorker<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWorker").field("queue", &self.queue).field("name", &self.name).finish_non_exhaustive()
    }
}
