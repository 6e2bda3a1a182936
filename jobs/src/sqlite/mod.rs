//! [`SqliteEngine`]: queues in a SQLite file, for the processes of one machine.

mod commands;
mod file;
mod reader;
mod sleepers;
mod writer;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use self::{commands::Command, file::File, reader::Reader, sleepers::Sleepers, writer::Writer};
use crate::{
    Error,
    bounds::within,
    engine::{Batch, Connection, Depth, Engine, JobInfo, Settled, Wake, Which},
    message::{Claim, Headers, NewMessage, QueueName},
    thread::EngineThread,
};

/// Queues in a SQLite file.
///
/// One connection writes. Pushes, extensions and deletes that wait at the same time share one
/// transaction, and so one `fsync`. Other connections read.
///
/// The file is in WAL mode, and a push is written with `synchronous = FULL`: it survives a crash of
/// the machine. Reads and deletes are not: after a power cut, a job that was done just before can
/// run again. Do not put the file on a network file system. `src/sqlite/schema.sql` is the schema.
///
/// If the file is deleted or replaced while it is open, the next call is [`Error::FileReplaced`]. A
/// file that was created again is then used.
///
/// # Examples
///
/// ```
/// use tower_background_jobs::{JobQueue, SqliteEngine};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("jobs.db");
/// let engine = SqliteEngine::open(&path).await?;
/// let mails: JobQueue<String> = JobQueue::open(engine, "mails").await?;
/// mails.push(&"ada@example.org".to_owned()).await?;
/// assert_eq!(mails.depth().await?.ready, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bound: Duration,
    commands: mpsc::UnboundedSender<Command>,
    reader: Arc<Reader>,
    sleepers: Arc<Sleepers>,
    thread: EngineThread,
}

impl SqliteEngine {
    /// Opens the file, or creates it, with a bound of 5 s for each call.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], which names the path.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_with(path, Duration::from_secs(5)).await
    }

    /// Opens the file, or creates it. `bound` is the longest time that a transaction may take.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], which names the path.
    pub async fn open_with(path: impl Into<PathBuf>, bound: Duration) -> Result<Self, Error> {
        let path = path.into();
        let cannot = |source: sqlx::Error| Error::Open {
            path: path.clone(),
            source: Arc::new(source),
        };
        let thread = EngineThread::start().map_err(|error| cannot(sqlx::Error::Io(error)))?;
        let file = File::new(path.clone(), bound);
        let (file, connection) = thread.run(file.create()).await?;
        let sleepers = Arc::new(Sleepers::default());
        let (commands, waiting) = mpsc::unbounded_channel();
        let reader = Arc::new(Reader::new(file.clone()));
        let writer = Writer::new(file, connection, Arc::clone(&sleepers));
        thread.handle().spawn(writer.run(waiting));
        Ok(Self(Arc::new(Inner {
            bound,
            commands,
            reader,
            sleepers,
            thread,
        })))
    }

    /// Gives a command to the writer. The writer skips it if nobody waits any more.
    async fn write<T>(
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

#[async_trait]
impl Engine for SqliteEngine {
    async fn create(&self, queue: &QueueName) -> Result<(), Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Create { queue, reply }).await
    }

    async fn send(&self, queue: &QueueName, message: NewMessage) -> Result<i64, Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Send {
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
        let Connection::Sqlite(connection) = connection else {
            return Err(Error::WrongDatabase);
        };
        within(
            "push_in",
            self.0.bound,
            commands::send_one(connection, queue, &message),
        )
        .await
    }

    async fn release(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Release { queue, id, reply })
            .await
    }

    async fn discard(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Discard { queue, id, reply })
            .await
    }

    async fn read(
        &self,
        queue: &QueueName,
        max: usize,
        invisible: Duration,
    ) -> Result<Batch, Error> {
        // An idle worker asks often. It only writes if there is something to read.
        let first = self.0.reader.first_visible(queue).await?;
        match first {
            Some(at) if at <= now() => {}
            Some(at) => {
                return Ok(Batch {
                    messages: Vec::new(),
                    next: Some(until(at)),
                });
            }
            None => return Ok(Batch::default()),
        }
        let wanted = queue.clone();
        let command = |reply| Command::Read {
            queue: wanted,
            max,
            invisible,
            reply,
        };
        let messages = self.write(command).await?;
        let next = if messages.len() < max {
            self.0.reader.first_visible(queue).await?.map(until)
        } else {
            Some(Duration::ZERO)
        };
        Ok(Batch { messages, next })
    }

    async fn extend(
        &self,
        queue: &QueueName,
        claims: &[Claim],
        invisible: Duration,
    ) -> Result<Vec<i64>, Error> {
        let (queue, claims) = (queue.clone(), claims.to_vec());
        self.write(|reply| Command::Extend {
            queue,
            claims,
            invisible,
            reply,
        })
        .await
    }

    async fn settle(&self, queue: &QueueName, settled: &[Settled]) -> Result<Vec<i64>, Error> {
        let (queue, settled) = (queue.clone(), settled.to_vec());
        self.write(|reply| Command::Settle {
            queue,
            settled,
            reply,
        })
        .await
    }

    fn wake(&self, _queue: &QueueName) -> Wake {
        Wake::new(self.0.sleepers.add(), None)
    }

    /// Other processes and `push_in` write without a notification.
    fn poll_interval(&self) -> Duration {
        Duration::from_millis(150)
    }

    fn runtime(&self) -> Handle {
        self.0.thread.handle()
    }

    async fn queues(&self) -> Result<Vec<String>, Error> {
        self.0.reader.queues().await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Depth, Error> {
        self.0.reader.depth(queue).await
    }

    async fn list(
        &self,
        queue: &QueueName,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        self.0.reader.list(queue, which, after, limit).await
    }

    async fn find(&self, queue: &QueueName, id: i64) -> Result<Option<JobInfo>, Error> {
        self.0.reader.find(queue, id).await
    }

    async fn restore(
        &self,
        queue: &QueueName,
        id: i64,
        headers: &Headers,
    ) -> Result<Option<i64>, Error> {
        let (queue, headers) = (queue.clone(), headers.clone());
        self.write(|reply| Command::Restore {
            queue,
            id,
            headers,
            reply,
        })
        .await
    }

    async fn hurry(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Hurry { queue, id, reply })
            .await
    }

    async fn remove(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Remove { queue, id, reply })
            .await
    }

    async fn purge(&self, queue: &QueueName, age: Duration) -> Result<u64, Error> {
        let queue = queue.clone();
        self.write(|reply| Command::Purge { queue, age, reply })
            .await
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    millis(SystemTime::now())
}

fn millis(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn until(at: i64) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(now())).unwrap_or(0))
}

fn later(delay: Duration) -> i64 {
    now().saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
}
