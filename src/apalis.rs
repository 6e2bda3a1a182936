//! [`ApalisQueue`]: any sink of apalis as a destination of jobs.

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use apalis_core::{
    backend::{BackendConfig, TaskSink, TaskSinkError},
    task::task_id::TaskId,
};
use tower_service::Service;

use crate::{apalis_jobs::IntoTasks, error::BoxError};

/// A destination of jobs: a storage of apalis', as a [`Service`] of jobs.
///
/// It takes a job, a job with options as apalis' [`Task`](apalis_core::task::Task) (start time, priority, attempts, idempotency
/// key, id), or a `Vec` of either. It answers with their ids when the storage has them. What "has" means is the storage's own
/// affair: a file, a database, or no more than memory.
///
/// # Examples
///
/// ```
/// use apalis_core::{backend::dequeue::VecDequeBackend, task::builder::TaskBuilder};
/// use tower::ServiceExt;
/// use tower_background::{ApalisQueue, BoxError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let mails = ApalisQueue::new(VecDequeBackend::<String>::new());
/// mails.clone().oneshot("to ada".to_owned()).await?;
///
/// let later = TaskBuilder::new("to bob".to_owned()).run_in_minutes(5).build();
/// let ids = mails.push(vec![later]).await?;
/// assert_eq!(ids.len(), 1);
/// # Ok(())
/// # }
/// ```
pub struct ApalisQueue<B, J> {
    backend: B,
    jobs: PhantomData<fn(J)>,
}

impl<B, J> ApalisQueue<B, J> {
    /// A destination that gives jobs to this storage.
    pub fn new(backend: B) -> Self
    where
        B: BackendConfig<Args = J>,
    {
        Self { backend, jobs: PhantomData }
    }

    /// Gives jobs to the storage, and answers with their ids when it has them.
    ///
    /// # Errors
    ///
    /// The storage could not be reached, or a job could not be encoded. Some of a list may have been written nevertheless,
    /// if the storage does not write lists as one.
    pub async fn push(&self, jobs: impl IntoTasks<J>) -> Result<Vec<TaskId>, BoxError>
    where
        B: BackendConfig + TaskSink<J, B::Kind> + Clone + Send + Unpin,
    {
        // A sink of its own for each call: one that was given up has a part of its jobs in its buffer.
        Ok(push(self.backend.clone(), jobs).await?)
    }
}

impl<B, J, T> Service<T> for ApalisQueue<B, J>
where
    B: BackendConfig + TaskSink<J, B::Kind> + Clone + Send + Unpin + 'static,
    J: Send + 'static,
    T: IntoTasks<J>,
{
    type Response = Vec<TaskId>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Vec<TaskId>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, jobs: T) -> Self::Future {
        let backend = self.backend.clone();
        Box::pin(async move { Ok(push(backend, jobs).await?) })
    }
}

async fn push<B, J>(backend: B, jobs: impl IntoTasks<J>) -> Result<Vec<TaskId>, TaskSinkError<B::Error>>
where
    B: BackendConfig + TaskSink<J, B::Kind> + Unpin,
{
    let mut sink = pin!(backend);
    let mut ids = Vec::new();
    for task in jobs.into_tasks() {
        ids.extend(task.task_id().cloned());
        poll_fn(|cx| TaskSink::poll_ready(sink.as_mut(), cx)).await?;
        TaskSink::start_send(sink.as_mut(), task)?;
    }
    poll_fn(|cx| TaskSink::poll_flush(sink.as_mut(), cx)).await?;
    Ok(ids)
}

impl<B: Clone, J> Clone for ApalisQueue<B, J> {
    fn clone(&self) -> Self {
        Self { backend: self.backend.clone(), jobs: PhantomData }
    }
}

impl<B: fmt::Debug, J> fmt::Debug for ApalisQueue<B, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApalisQueue").field("backend", &self.backend).finish()
    }
}
