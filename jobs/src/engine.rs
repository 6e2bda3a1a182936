//! [`Engine`]: what a database must be able to do to hold queues.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::DropGuard;

use crate::{
    Error,
    info::{Depth, JobInfo, Which},
    message::{Claim, Headers, Message, NewMessage},
    queue_name::QueueName,
};

/// A database that holds queues.
///
/// The model is that of SQS and pgmq. A message that was read is invisible for some time. The
/// worker extends this time while it runs the job, and deletes the message after a success. If the
/// worker dies, the message becomes visible by itself, and the next read counts.
///
/// Calls with a [`Claim`] change only messages that were not read again since.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Creates the queue, unless it exists.
    async fn create(&self, queue: &QueueName) -> Result<(), Error>;

    /// Sends a message. When this returns `Ok`, the message is on disk.
    async fn send(&self, queue: &QueueName, message: NewMessage) -> Result<i64, Error>;

    /// Sends a message in a transaction of the caller.
    async fn send_in(
        &self,
        connection: Connection<'_>,
        queue: &QueueName,
        message: NewMessage,
    ) -> Result<i64, Error>;

    /// Makes a message visible that nobody has read. Returns whether there was one.
    async fn release(&self, queue: &QueueName, id: i64) -> Result<bool, Error>;

    /// Deletes a message that nobody has read. Returns whether there was one.
    async fn discard(&self, queue: &QueueName, id: i64) -> Result<bool, Error>;

    /// Reads up to `max` visible messages and makes them invisible for `invisible`.
    async fn read(
        &self,
        queue: &QueueName,
        max: usize,
        invisible: Duration,
    ) -> Result<Batch, Error>;

    /// Makes claimed messages invisible for `invisible` from now. Returns those still claimed.
    async fn extend(
        &self,
        queue: &QueueName,
        claims: &[Claim],
        invisible: Duration,
    ) -> Result<Vec<i64>, Error>;

    /// Ends claims. Returns the messages that were still claimed.
    async fn settle(&self, queue: &QueueName, settled: &[Settled]) -> Result<Vec<i64>, Error>;

    /// Returns a notification of new messages for a worker of this queue.
    fn wake(&self, queue: &QueueName) -> Wake;

    /// The longest time between two reads of an idle worker.
    fn poll_interval(&self) -> Duration;

    /// The runtime on the engine's own thread, where workers run. Handlers do not run there.
    fn runtime(&self) -> Handle;

    /// Returns the names of all queues.
    async fn queues(&self) -> Result<Vec<String>, Error>;

    /// Counts the messages of a queue.
    async fn depth(&self, queue: &QueueName) -> Result<Depth, Error>;

    /// Lists messages, the oldest first, after the message `after`.
    async fn list(
        &self,
        queue: &QueueName,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error>;

    /// Finds one message, in the queue or in its archive.
    async fn find(&self, queue: &QueueName, id: i64) -> Result<Option<JobInfo>, Error> {
        for which in [Which::Queued, Which::Archived] {
            let found = self.list(queue, which, id - 1, 1).await?.into_iter().next();
            if let Some(found) = found.filter(|found| found.id == id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Moves an archived message back into the queue, with these headers. Returns its new id.
    async fn restore(
        &self,
        queue: &QueueName,
        id: i64,
        headers: &Headers,
    ) -> Result<Option<i64>, Error>;

    /// Makes a waiting message visible now.
    async fn hurry(&self, queue: &QueueName, id: i64) -> Result<bool, Error>;

    /// Deletes a message from the queue or its archive.
    async fn remove(&self, queue: &QueueName, id: i64) -> Result<bool, Error>;

    /// Deletes up to 10,000 messages that were archived longer ago than `age`.
    async fn purge(&self, queue: &QueueName, age: Duration) -> Result<u64, Error>;
}

/// What a read returned.
#[derive(Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "engines build it")]
pub struct Batch {
    /// The messages, the oldest first.
    pub messages: Vec<Message>,
    /// In how much time the next message becomes visible, if the engine knows.
    pub next: Option<Duration>,
}

/// How a claim ends.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs, reason = "engines take it apart")]
pub struct Settled {
    /// The message and its read.
    pub claim: Claim,
    /// What becomes of it.
    pub end: Settlement,
}

/// What becomes of a claimed message.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums, reason = "an engine must know all of them")]
pub enum Settlement {
    /// The job is done.
    Delete,
    /// The message becomes visible after this time, with these headers.
    Return(Duration, Headers),
    /// The message moves to the archive, with these headers.
    Archive(Headers),
}

/// A connection of the caller, on which a transaction is open.
#[derive(Debug)]
#[non_exhaustive]
pub enum Connection<'c> {
    /// PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(&'c mut sqlx::PgConnection),
    /// SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(&'c mut sqlx::SqliteConnection),
    #[doc(hidden)]
    None(std::marker::PhantomData<&'c ()>),
}

#[cfg(feature = "postgres")]
impl<'c> From<&'c mut sqlx::Transaction<'_, sqlx::Postgres>> for Connection<'c> {
    fn from(transaction: &'c mut sqlx::Transaction<'_, sqlx::Postgres>) -> Self {
        Self::Postgres(transaction)
    }
}

#[cfg(feature = "postgres")]
impl<'c> From<&'c mut sqlx::PgConnection> for Connection<'c> {
    fn from(connection: &'c mut sqlx::PgConnection) -> Self {
        Self::Postgres(connection)
    }
}

#[cfg(feature = "sqlite")]
impl<'c> From<&'c mut sqlx::Transaction<'_, sqlx::Sqlite>> for Connection<'c> {
    fn from(transaction: &'c mut sqlx::Transaction<'_, sqlx::Sqlite>) -> Self {
        Self::Sqlite(transaction)
    }
}

#[cfg(feature = "sqlite")]
impl<'c> From<&'c mut sqlx::SqliteConnection> for Connection<'c> {
    fn from(connection: &'c mut sqlx::SqliteConnection) -> Self {
        Self::Sqlite(connection)
    }
}

/// Tells one worker that its queue may have new messages.
#[derive(Debug)]
pub struct Wake {
    notify: Arc<Notify>,
    _listener: Option<DropGuard>,
}

impl Wake {
    /// Makes one from a notification, and from what stops whoever sends it.
    #[must_use]
    pub fn new(notify: Arc<Notify>, listener: Option<DropGuard>) -> Self {
        Self {
            notify,
            _listener: listener,
        }
    }

    /// Waits for a notification. One that came in between is not lost.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }
}
