//! [`PgmqEngine`]: queues in a PostgreSQL database, in the tables and functions of pgmq.

mod listen;
mod messages;
mod operations;
mod sender;
mod sessions;

use std::{str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use self::{
    sender::{Command, Sender},
    sessions::Sessions,
};
use crate::{
    Error,
    bounds::{bounded, within},
    engine::{Batch, Connection, Depth, Engine, JobInfo, Settled, Wake, Which},
    message::{Claim, Headers, NewMessage, QueueName},
    thread::EngineThread,
};

/// Queues in a PostgreSQL database, in the schema `pgmq`.
///
/// The tables and functions are those of [pgmq](https://github.com/pgmq/pgmq), which has clients in
/// many languages. No extension is needed: [`install`](Self::install) creates the schema.
///
/// The engine has connections of its own, so handlers that use all connections of your pool do not
/// stop it: up to four for pushes, and four for each worker (to read, to extend, to delete, to listen).
/// A call that fails or takes too long closes its connection.
///
/// # Examples
///
/// ```no_run
/// use tower_background_jobs::{JobQueue, PgmqEngine};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = PgmqEngine::connect("postgres://localhost/shop")?;
/// engine.install().await?;
/// let mails: JobQueue<String> = JobQueue::open(engine, "mails").await?;
/// mails.push(&"ada@example.org".to_owned()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PgmqEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bound: Duration,
    options: PgConnectOptions,
    commands: mpsc::UnboundedSender<Command>,
    /// Reads, ends and operations.
    work: Arc<Sessions>,
    /// Extensions, so that they never wait for anything else.
    extend: Arc<Sessions>,
    thread: EngineThread,
}

impl PgmqEngine {
    /// Prepares an engine for a database, with a bound of 5 s for each call. It connects when it
    /// is used.
    ///
    /// # Errors
    ///
    /// If the URL is none.
    pub fn connect(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url);
        let options = options.map_err(|error| Error::database("connect", error))?;
        Self::connect_with(options, Duration::from_secs(5))
    }

    /// Prepares an engine for a database. `bound` is the longest time that a call may take. It is
    /// also the `statement_timeout` of the connections.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn connect_with(options: PgConnectOptions, bound: Duration) -> Result<Self, Error> {
        let thread = EngineThread::start()
            .map_err(|error| Error::database("connect", sqlx::Error::Io(error)))?;
        let sessions = || Arc::new(Sessions::new(options.clone(), bound));
        let (commands, waiting) = mpsc::unbounded_channel();
        thread.handle().spawn(Sender::run(sessions(), waiting));
        let (work, extend) = (sessions(), sessions());
        Ok(Self(Arc::new(Inner {
            bound,
            options,
            commands,
            work,
            extend,
            thread,
        })))
    }

    /// Installs pgmq, or upgrades it. Several processes may do this at the same time.
    ///
    /// The role must be allowed to create a schema. It needs no other right.
    ///
    /// # Errors
    ///
    /// [`Error::Install`] with the reason.
    pub async fn install(&self) -> Result<(), Error> {
        let options = self.0.options.clone();
        let work = async move {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_with(options)
                .await;
            let pool = pool.map_err(|error| Error::database("install", error))?;
            let installed = pgmq::install::install_sql_from_embedded(&pool).await;
            pool.close().await;
            installed.map_err(|error| Error::Install {
                reason: error.to_string(),
            })
        };
        let bound = Duration::from_mins(1);
        self.0.thread.run(bounded("install", bound, work)).await
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0
            .commands
            .send(command(reply))
            .map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

/// The channel on which workers of a queue listen.
fn channel(queue: &QueueName) -> String {
    format!("pgmq_jobs_{}", queue.as_str())
}

#[async_trait]
impl Engine for PgmqEngine {
    async fn create(&self, queue: &QueueName) -> Result<(), Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        self.0
            .thread
            .run(async move { operations::create(&work, &queue).await })
            .await
    }

    async fn send(&self, queue: &QueueName, message: NewMessage) -> Result<i64, Error> {
        if message.has_nul() {
            return Err(Error::Nul);
        }
        let queue = queue.clone();
        self.command(|reply| Command::Send {
            queue,
            message,
            reply,
        })
        .await
    }

    async fn send_in(
        &self,
        connection: Connection<'_>,
        queue: &QueueName,
        message: NewMessage,
    ) -> Result<i64, Error> {
        let Connection::Postgres(connection) = connection else {
            return Err(Error::WrongDatabase);
        };
        if message.has_nul() {
            return Err(Error::Nul);
        }
        let sent = messages::send_one(connection, queue, &message);
        within("push_in", self.0.bound, sent).await
    }

    async fn release(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.command(|reply| Command::Release { queue, id, reply })
            .await
    }

    async fn discard(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.command(|reply| Command::Discard { queue, id, reply })
            .await
    }

    async fn read(
        &self,
        queue: &QueueName,
        max: usize,
        invisible: Duration,
    ) -> Result<Batch, Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        let read = async move {
            let mut session = work.get().await?;
            let read = messages::read(&mut session.connection, &queue, max, invisible);
            let batch = within("read", session.bound, read).await?;
            session.done();
            Ok(batch)
        };
        self.0.thread.run(read).await
    }

    async fn extend(
        &self,
        queue: &QueueName,
        claims: &[Claim],
        invisible: Duration,
    ) -> Result<Vec<i64>, Error> {
        let (extend, queue, claims) = (Arc::clone(&self.0.extend), queue.clone(), claims.to_vec());
        let extend = async move {
            let mut session = extend.get().await?;
            let extended = messages::extend(&mut session.connection, &queue, &claims, invisible);
            let ids = within("extend", session.bound, extended).await?;
            session.done();
            Ok(ids)
        };
        self.0.thread.run(extend).await
    }

    async fn settle(&self, queue: &QueueName, settled: &[Settled]) -> Result<Vec<i64>, Error> {
        let (work, queue, settled) = (Arc::clone(&self.0.work), queue.clone(), settled.to_vec());
        let settle = async move {
            let mut session = work.get().await?;
            let written = messages::settle(&mut session.connection, &queue, &settled);
            let ids = within("settle", session.bound, written).await?;
            session.done();
            Ok(ids)
        };
        self.0.thread.run(settle).await
    }

    fn wake(&self, queue: &QueueName) -> Wake {
        let notify = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let (options, bound) = (self.0.options.clone(), self.0.bound);
        let listen = listen::run(options, bound, channel(queue), Arc::clone(&notify));
        self.0
            .thread
            .handle()
            .spawn(stop.clone().run_until_cancelled_owned(listen));
        Wake::new(notify, Some(stop.drop_guard()))
    }

    /// Other clients of pgmq send without a notification.
    fn poll_interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn runtime(&self) -> Handle {
        self.0.thread.handle()
    }

    async fn queues(&self) -> Result<Vec<String>, Error> {
        let work = Arc::clone(&self.0.work);
        self.0
            .thread
            .run(async move { operations::queues(&work).await })
            .await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Depth, Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        self.0
            .thread
            .run(async move { operations::depth(&work, &queue).await })
            .await
    }

    async fn list(
        &self,
        queue: &QueueName,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        let list = async move { operations::list(&work, &queue, which, after, limit).await };
        self.0.thread.run(list).await
    }

    async fn find(&self, queue: &QueueName, id: i64) -> Result<Option<JobInfo>, Error> {
        for which in [Which::Queued, Which::Archived] {
            let found = self.list(queue, which, id - 1, 1).await?.into_iter().next();
            if let Some(found) = found.filter(|found| found.id == id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn restore(
        &self,
        queue: &QueueName,
        id: i64,
        headers: &Headers,
    ) -> Result<Option<i64>, Error> {
        let (work, queue, headers) = (Arc::clone(&self.0.work), queue.clone(), headers.clone());
        let restore = async move { operations::restore(&work, &queue, id, &headers).await };
        self.0.thread.run(restore).await
    }

    async fn hurry(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        self.0
            .thread
            .run(async move { operations::hurry(&work, &queue, id).await })
            .await
    }

    async fn remove(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        self.0
            .thread
            .run(async move { operations::remove(&work, &queue, id).await })
            .await
    }

    async fn purge(&self, queue: &QueueName, age: Duration) -> Result<u64, Error> {
        let (work, queue) = (Arc::clone(&self.0.work), queue.clone());
        self.0
            .thread
            .run(async move { operations::purge(&work, &queue, age).await })
            .await
    }
}
