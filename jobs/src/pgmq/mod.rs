//! [`PgmqEngine`]: queues in a PostgreSQL database, in the tables and functions of pgmq.

mod claims;
mod engine;
mod listen;
mod operations;
mod send;
mod sender;
mod sessions;

use std::{str::FromStr, sync::Arc, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::mpsc;

use self::{
    sender::{Command, Sender},
    sessions::{Commit, Sessions},
};
use crate::{Error, bounds::bounded, queue_name::QueueName, thread::EngineThread};

/// Queues in a PostgreSQL database, in the schema `pgmq`.
///
/// The tables and functions are those of [pgmq](https://github.com/pgmq/pgmq), which has clients in
/// many languages. No extension is needed: [`install`](Self::install) creates the schema.
///
/// The engine has connections of its own, so handlers that use all connections of your pool do not
/// stop it: up to four for pushes, and four for each worker (to read, to extend, to delete, to listen).
/// A call that fails or takes too long closes its connection.
///
/// A push waits until it is on disk. Reads and deletes do not: after a crash of the server, a job
/// that was done in the last second can run again.
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
    /// Pushes and operations.
    durable: Arc<Sessions>,
    /// Reads and ends.
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
        let sessions = |commit| Arc::new(Sessions::new(options.clone(), bound, commit));
        let (commands, waiting) = mpsc::unbounded_channel();
        let durable = sessions(Commit::Durable);
        let sender = Sender::run(Arc::clone(&durable), waiting);
        thread.handle().spawn(sender);
        let (work, extend) = (sessions(Commit::Soon), sessions(Commit::Soon));
        Ok(Self(Arc::new(Inner {
            bound,
            options,
            commands,
            durable,
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
}

/// The seconds of a time span, for PostgreSQL. Its times end in the year 294276, so a longer span
/// than 1,000 years is cut to that.
fn seconds(span: Duration) -> f64 {
    const LONGEST: Duration = Duration::from_hours(1_000 * 365 * 24);
    span.min(LONGEST).as_secs_f64()
}

/// The channel on which workers of a queue listen.
fn channel(queue: &QueueName) -> String {
    format!("pgmq_jobs_{}", queue.as_str())
}
