//! [`JobQueue`]: pushes jobs of one type, and starts workers for them.

use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Error,
    bounds::bounded,
    engine::{Connection, Engine},
    held::Hold,
    job::{JobContext, JobError},
    options::PushOptions,
    queue_name::QueueName,
    worker::Worker,
};

/// A queue of jobs of the type `J`.
///
/// Cheap to clone. All clones, and all processes that open the same name in the same database,
/// share the queue.
///
/// The page of the crate has an example.
pub struct JobQueue<J> {
    pub(crate) inner: Arc<Inner>,
    job: PhantomData<fn(J) -> J>,
}

#[derive(Debug, Clone)]
pub(crate) struct Inner {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) name: QueueName,
    pub(crate) bound: Duration,
}

impl Inner {
    /// Awaits a call on the engine, for at most the bound of the queue.
    pub(crate) async fn call<'a, T, F>(
        &'a self,
        during: &'static str,
        call: impl FnOnce(&'a dyn Engine, &'a QueueName) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        bounded(during, self.bound, call(&*self.engine, &self.name)).await
    }
}

impl<J> JobQueue<J> {
    /// Opens the queue, and creates it if it does not exist.
    ///
    /// `name` is 1 to 47 of the characters `a-z`, `0-9` and `_`.
    ///
    /// # Errors
    ///
    /// [`Error::QueueName`], or an error of the database.
    pub async fn open(engine: impl Engine, name: &str) -> Result<Self, Error> {
        Self::open_shared(Arc::new(engine), name).await
    }

    /// Opens the queue on an engine whose type is only known at run time.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_shared(engine: Arc<dyn Engine>, name: &str) -> Result<Self, Error> {
        let name = QueueName::new(name)?;
        let bound = Duration::from_secs(5);
        bounded("create", bound, engine.create(&name)).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                name,
                bound,
            }),
            job: PhantomData,
        })
    }

    /// Sets the longest time that a push, a release or an operation on this handle may take. The
    /// default is 5 s. It cannot raise the bound of the engine, which is also 5 s by default: see
    /// `PgmqEngine::connect_with` and `SqliteEngine::open_with`.
    #[must_use]
    pub fn bound(self, bound: Duration) -> Self {
        let inner = Inner {
            bound,
            ..Inner::clone(&self.inner)
        };
        Self {
            inner: Arc::new(inner),
            job: PhantomData,
        }
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.name.as_str()
    }
}

impl<J: Serialize> JobQueue<J> {
    /// Pushes a job. When this returns `Ok`, the job is on disk, and a worker will run it.
    ///
    /// Returns the id of the job.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves every connection clean. The job may then be written or not.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] after the [bound](Self::bound), or an error of the database. The job may
    /// have been written all the same if the database answered too late. [`Error::Encode`] if the job
    /// is not JSON, and [`Error::Nul`] if PostgreSQL can not store it.
    pub async fn push(&self, job: &J) -> Result<i64, Error> {
        self.push_with(job, PushOptions::new()).await
    }

    /// Pushes a job with a delay, a time or headers.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub async fn push_with(&self, job: &J, options: PushOptions) -> Result<i64, Error> {
        let message = options.encode(job)?;
        let inner = &self.inner;
        inner
            .call("push", |engine, name| engine.send(name, message))
            .await
    }

    /// Pushes a job in a transaction of yours: the job exists if the transaction commits.
    ///
    /// The transaction must be on the database of the queue. Give it as `&mut transaction`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongDatabase`] for a transaction on another kind of database, else as
    /// [`push`](Self::push). Roll the transaction back after an error.
    pub async fn push_in<'c>(
        &self,
        transaction: impl Into<Connection<'c>>,
        job: &J,
    ) -> Result<i64, Error> {
        self.push_in_with(transaction, job, PushOptions::new())
            .await
    }

    /// Pushes a job in a transaction of yours, with a delay, a time or headers.
    ///
    /// # Errors
    ///
    /// As [`push_in`](Self::push_in).
    pub async fn push_in_with<'c>(
        &self,
        transaction: impl Into<Connection<'c>>,
        job: &J,
        options: PushOptions,
    ) -> Result<i64, Error> {
        let message = options.encode(job)?;
        let connection = transaction.into();
        let inner = &self.inner;
        inner
            .call("push_in", |engine, name| {
                engine.send_in(connection, name, message)
            })
            .await
    }

    /// Starts the push of a job that workers can not see yet.
    ///
    /// The job becomes visible when it is released, and at the latest after `grace`: also if this
    /// process dies.
    #[must_use]
    pub fn hold(&self, grace: Duration) -> Hold<'_, J> {
        Hold::new(self, grace)
    }
}

impl<J: DeserializeOwned + Send + 'static> JobQueue<J> {
    /// Returns a worker that runs `handler` for each job, to be configured and started.
    pub fn worker<H, F>(&self, handler: H) -> Worker<J>
    where
        H: Fn(J, JobContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        Worker::new(Arc::clone(&self.inner), handler)
    }
}

impl<J> Clone for JobQueue<J> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            job: PhantomData,
        }
    }
}

impl<J> fmt::Debug for JobQueue<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobQueue")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
