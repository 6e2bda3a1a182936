//! [`SqliteEngine`]: queues in a SQLite file, for the processes of one machine.

mod claims;
mod commands;
mod engine;
mod file;
mod perform;
mod reader;
mod sleepers;
mod statements;
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use self::{commands::Command, file::File, reader::Reader, sleepers::Sleepers, writer::Writer};
use crate::{Error, thread::EngineThread};

/// Queues in a SQLite file.
///
/// One connection writes. Pushes, extensions and deletes that wait at the same time share one
/// transaction, and so one `fsync`. Other connections read.
///
/// The file is in WAL mode, and a push is written with `synchronous = FULL`: it survives a crash of
/// the machine. Reads and deletes are not: after a power cut, jobs that were done since the last push
/// or checkpoint can run again. Do not put the file on a network file system.
/// `src/sqlite/schema.sql` is the schema.
///
/// If the file is deleted or replaced while it is open, the next push is [`Error::FileReplaced`]. A
/// file that was created again is then used. Workers find the jobs in it by themselves.
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

    /// Opens the file, or creates it. `bound` is the longest time that a transaction may take. This
    /// call waits about as long for other processes that create the file.
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
}
