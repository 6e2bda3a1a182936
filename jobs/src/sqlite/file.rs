//! The file: how it is opened, and whether it is still the one that was opened.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::time::sleep;

use crate::{Error, bounds::for_connections};

const SCHEMA: &str = include_str!("schema.sql");

/// Between two attempts to open a file that another process creates.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) bound: Duration,
}

impl File {
    pub(super) fn new(path: PathBuf, bound: Duration) -> Self {
        let bound = for_connections(bound);
        Self { path, bound }
    }

    /// Creates the file and its tables, unless they exist.
    pub(super) async fn create(self) -> Result<(Self, Writable), Error> {
        let mut writable = self.open(self.options().create_if_missing(true)).await?;
        self.schema(&mut writable.connection).await?;
        Ok((self, writable))
    }

    /// Opens the file to write. A file that was deleted is not created again, as the jobs in it
    /// would be missing without a word.
    pub(super) async fn reopen(&self) -> Result<Writable, Error> {
        self.open(self.options()).await
    }

    async fn open(&self, options: SqliteConnectOptions) -> Result<Writable, Error> {
        let options = options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(self.bound);
        let connection = self.connect(&options).await?;
        Ok(Writable {
            connection,
            identity: self.identity(),
            syncs: true,
        })
    }

    /// Connects, and tries again while another process writes to a file that is not in WAL mode yet.
    /// SQLite does not wait by itself then: its busy handler is not called when a connection that
    /// reads wants to write.
    async fn connect(&self, options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
        let started = Instant::now();
        loop {
            match SqliteConnection::connect_with(options).await {
                Err(error) if is_busy(&error) && started.elapsed() < self.bound => {
                    sleep(PAUSE).await;
                }
                connected => return connected.map_err(|error| self.cannot_open(error)),
            }
        }
    }

    pub(super) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new().filename(&self.path)
    }

    /// Which file the path leads to. `None` if there is none.
    pub(super) fn identity(&self) -> Option<Identity> {
        identity(&self.path)
    }

    pub(super) fn replaced(&self) -> Error {
        Error::FileReplaced {
            path: self.path.clone(),
        }
    }

    pub(super) fn cannot_open(&self, error: sqlx::Error) -> Error {
        Error::Open {
            path: self.path.clone(),
            source: Arc::new(error),
        }
    }

    /// Two processes may do this at once: the transaction is taken before the tables are looked at.
    async fn schema(&self, connection: &mut SqliteConnection) -> Result<(), Error> {
        let script = format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;");
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(script))
            .execute(connection)
            .await;
        done.map(drop).map_err(|error| self.cannot_open(error))
    }
}

/// Whether another connection holds the lock. The low byte of an extended code is the code itself.
fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: u32 = 5;
    error
        .as_database_error()
        .and_then(|error| error.code()?.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// A connection that writes, and the file that it has open.
#[derive(Debug)]
pub(super) struct Writable {
    pub(super) connection: SqliteConnection,
    identity: Option<Identity>,
    syncs: bool,
}

impl Writable {
    /// Sets whether the next transaction waits for the disk. The file is sound in both cases.
    pub(super) async fn sync(&mut self, sync: bool) -> Result<(), sqlx::Error> {
        if self.syncs != sync {
            let pragma = if sync {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            };
            sqlx::query(pragma).execute(&mut self.connection).await?;
            self.syncs = sync;
        }
        Ok(())
    }

    /// Whether the path still leads to the file that is open.
    pub(super) fn is_current(&self, file: &File) -> bool {
        self.identity.is_some() && self.identity == file.identity()
    }
}

/// The device of a file, and its number there. While a connection is open, no other file gets this
/// number.
pub(super) type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &std::path::Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Elsewhere an open file can not be deleted.
#[cfg(not(unix))]
fn identity(path: &std::path::Path) -> Option<Identity> {
    path.exists().then_some((0, 0))
}
