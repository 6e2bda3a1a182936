//! [`JobQueue`] and [`HeldQueue`]: a queue in a database as a destination of jobs.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::task::{Task, task_id::TaskId};
use serde::Serialize;
use tower_service::Service;

use crate::{
    apalis_jobs::IntoTasks,
    error::BoxError,
    job_store::{JobStore, Start},
    receipt::Receipt,
};

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A queue of jobs of one kind, in a database: a destination whose answer says that they are on disk, and may run.
///
/// It is a [`Service`] of a job, of a job with options as apalis' [`Task`], and of a `Vec` of either, which is written as one.
/// A job whose idempotency key the queue has already is not written again, and that is no error.
///
/// `SqliteStore` has an example.
pub struct JobQueue<S, J> {
    store: S,
    name: Arc<str>,
    jobs: PhantomData<fn(J) -> J>,
}

impl<S: JobStore, J: Send + 'static> JobQueue<S, J> {
    /// The queue of this name; `store.queue(name)` is the same.
    pub fn new(store: S, name: impl Into<Arc<str>>) -> Self {
        Self { store, name: name.into(), jobs: PhantomData }
    }

    pub(crate) const fn store(&self) -> &S {
        &self.store
    }

    /// The queue's name, by which workers know it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same queue as a destination that holds jobs: what is written does not start before it is released, or the grace is
    /// over.
    ///
    /// # Panics
    ///
    /// If the grace is shorter than a second, which is the unit of times in these tables.
    #[must_use]
    pub fn held(&self, grace: Duration) -> HeldQueue<S, J> {
        assert!(grace >= Duration::from_secs(1), "a grace of less than a second would hold nothing");
        HeldQueue { queue: self.clone(), grace }
    }

    /// Writes jobs. They are on disk, and may run, when this returns their ids.
    ///
    /// # Errors
    ///
    /// None of the jobs was written: the database could not be reached, or a job is not to be told in JSON. If the connection is
    /// lost while the database commits, nobody knows: then this is an error as well.
    pub async fn push(&self, jobs: impl IntoTasks<J>) -> Result<Vec<TaskId>, BoxError>
    where
        J: Serialize,
    {
        let (ids, tasks) = encoded(jobs)?;
        self.store.write_alone(&self.name, tasks, None).await?;
        Ok(ids)
    }

    /// Writes jobs as a part of a transaction: they exist when, and only if, that is committed.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push). The transaction may be of no more use.
    pub async fn push_in(&self, connection: &mut S::Connection, jobs: impl IntoTasks<J>) -> Result<Vec<TaskId>, BoxError>
    where
        J: Serialize,
    {
        let (ids, tasks) = encoded(jobs)?;
        S::write(connection, &self.name, tasks, None).await?;
        Ok(ids)
    }
}

impl<S: JobStore, J: Serialize + Send + 'static, T: IntoTasks<J>> Service<T> for JobQueue<S, J> {
    type Response = Vec<TaskId>;
    type Error = BoxError;
    type Future = Boxed<Vec<TaskId>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, jobs: T) -> Self::Future {
        let queue = self.clone();
        Box::pin(async move { queue.push(jobs).await })
    }
}

/// A queue whose jobs are written at once and start later: when their [`HeldJobs`] are released, or when the grace is over.
///
/// So a job that belongs to an answer can be on disk before the answer goes out, and yet run after it; and if the process dies
/// between the two, the job runs nevertheless, once the grace is over. Choose a grace that is longer than an answer takes: a job
/// whose grace is over runs whether its answer is or not.
pub struct HeldQueue<S, J> {
    queue: JobQueue<S, J>,
    grace: Duration,
}

impl<S: JobStore, J: Serialize + Send + 'static> HeldQueue<S, J> {
    /// Writes jobs that wait. They are on disk when this returns.
    ///
    /// # Errors
    ///
    /// As [`JobQueue::push`].
    pub async fn push(&self, jobs: impl IntoTasks<J>) -> Result<HeldJobs<S>, BoxError> {
        let (ids, tasks) = encoded(jobs)?;
        let held = self.hold(ids, &tasks);
        self.queue.store.write_alone(&self.queue.name, tasks, Some(self.grace)).await?;
        Ok(held)
    }

    /// Writes jobs that wait, as a part of a transaction. Release them after it is committed: before, there is nothing to
    /// release, which is no error.
    ///
    /// # Errors
    ///
    /// As [`JobQueue::push_in`].
    pub async fn push_in(&self, connection: &mut S::Connection, jobs: impl IntoTasks<J>) -> Result<HeldJobs<S>, BoxError> {
        let (ids, tasks) = encoded(jobs)?;
        let held = self.hold(ids, &tasks);
        S::write(connection, &self.queue.name, tasks, Some(self.grace)).await?;
        Ok(held)
    }

    fn hold(&self, ids: Vec<TaskId>, tasks: &[Task<Vec<u8>>]) -> HeldJobs<S> {
        let starts = tasks.iter().map(|task| task.run_at().and_then(|at| i64::try_from(at).ok()));
        HeldJobs { store: self.queue.store.clone(), starts: starts.collect(), ids }
    }
}

impl<S: JobStore, J: Serialize + Send + 'static, T: IntoTasks<J>> Service<T> for HeldQueue<S, J> {
    type Response = HeldJobs<S>;
    type Error = BoxError;
    type Future = Boxed<HeldJobs<S>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, jobs: T) -> Self::Future {
        let queue = self.clone();
        Box::pin(async move { queue.push(jobs).await })
    }
}

/// Jobs that are written and wait. Dropped, they wait until their grace is over.
#[must_use = "the jobs wait until they are released, or their grace is over"]
#[derive(Debug)]
pub struct HeldJobs<S> {
    store: S,
    ids: Vec<TaskId>,
    starts: Vec<Option<i64>>,
}

impl<S> HeldJobs<S> {
    /// The jobs' ids, in the order given.
    #[must_use]
    pub fn ids(&self) -> &[TaskId] {
        &self.ids
    }
}

/// The jobs may start: now, or at a start time of their own. One that has started, as its grace was over, stays as it is.
impl<S: JobStore> Receipt for HeldJobs<S> {
    async fn release(self) -> Result<(), BoxError> {
        let jobs = self.ids.iter().zip(self.starts).map(|(id, at)| Start { id: id.to_string(), at });
        self.store.release(jobs.collect()).await
    }
}

/// Jobs in JSON, as apalis writes them.
type Encoded = Vec<Task<Vec<u8>>>;

/// The jobs' ids, and the jobs as they are written.
fn encoded<J: Serialize>(jobs: impl IntoTasks<J>) -> Result<(Vec<TaskId>, Encoded), BoxError> {
    let mut ids = Vec::new();
    let mut tasks = Vec::new();
    for task in jobs.into_tasks() {
        ids.extend(task.task_id().cloned());
        tasks.push(task.try_map_args(|job| serde_json::to_vec(&job))?);
    }
    Ok((ids, tasks))
}

impl<S: Clone, J> Clone for JobQueue<S, J> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), name: Arc::clone(&self.name), jobs: PhantomData }
    }
}

impl<S: Clone, J> Clone for HeldQueue<S, J> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), grace: self.grace }
    }
}

impl<S, J> fmt::Debug for JobQueue<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobQueue").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<S, J> fmt::Debug for HeldQueue<S, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldQueue").field("name", &self.queue.name).field("grace", &self.grace).finish_non_exhaustive()
    }
}
