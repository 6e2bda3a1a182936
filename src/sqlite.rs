//! [`SqliteStore`]: jobs in a file of SQLite's, in the tables of apalis.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use apalis_core::task::Task;
use apalis_sqlite::{SqliteStorage, queries::push_tasks};
use sqlx::{
    ConnectOptions, Connection, Row, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::mpsc;

use crate::{
    error::BoxError,
    job_queue::JobQueue,
    job_store::{JobStore, Start, Taken, Verdict},
};

/// How long a connection waits for others that write.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file of SQLite's that keeps jobs, in the tables of apalis: workers and tools of apalis' can use them as well.
///
/// A transaction of one's own should begin with `BEGIN IMMEDIATE`: one that reads first, and then writes a job, fails at once if
/// another has written in between, whatever the timeout.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::{BoxError, Receipt, SqliteStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let folder = std::env::temp_dir().join(format!("tower-background-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let store = SqliteStore::open(folder.join("jobs.db")).await?;
/// let mails = store.queue::<String>("mails");
///
/// // On disk, and may run at once.
/// mails.push("to ada".to_owned()).await?;
///
/// // On disk with what it belongs to, and runs when it is released; in ten minutes at the latest.
/// let mut transaction = store.pool().begin_with("BEGIN IMMEDIATE").await?;
/// let held = mails.held(Duration::from_secs(600)).push_in(&mut transaction, "to bob".to_owned()).await?;
/// transaction.commit().await?;
/// held.release().await?;
///
/// // A worker, in this process or in another.
/// let (sent, mut mailed) = tokio::sync::mpsc::channel(2);
/// let stop = async move {
///     let mut mailed: [String; 2] = [mailed.recv().await.unwrap(), mailed.recv().await.unwrap()];
///     mailed.sort();
///     assert_eq!(mailed, ["to ada", "to bob"]);
/// };
/// let send = move |job: tower_background::Job<String>| {
///     let sent = sent.clone();
///     async move { sent.send(job.into_args()).await }
/// };
/// mails.worker("mailer").run(send, stop).await;
/// # std::fs::remove_dir_all(folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    ///
    /// It is no such file, may not be opened, or was locked by others for half a minute.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, BoxError> {
        let options = Self::options(path);
        Self::setup(&options).await?;
        // As `connection` does it, for transactions of the user's own as well.
        let pool = SqlitePoolOptions::new().before_acquire(|connection, _| {
            let is_usable = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_usable) })
        });
        Ok(Self::new(pool.connect_with(options).await?))
    }

    /// The store behind connections of one's own. Take them from [`options`](Self::options), and call [`setup`](Self::setup)
    /// before.
    #[must_use]
    pub const fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// What each connection to the file should be: what was committed is on disk (`synchronous=FULL`), readers do not wait for
    /// writers (WAL), writers wait for each other for half a minute, and foreign keys hold.
    #[must_use]
    pub fn options(path: impl AsRef<Path>) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE)
            .foreign_keys(true)
    }

    /// Brings the tables up to date. Any number of processes may do so at once.
    ///
    /// apalis' own [`setup`](https://docs.rs/crate/apalis-sqlite/1.0.0/source/src/lib.rs) is not for this: it leaves
    /// a connection of the pool with `synchronous=OFF`, and fails where two processes start at once. Here one connection does
    /// it, in one transaction, and is closed.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn setup(options: &SqliteConnectOptions) -> Result<(), BoxError> {
        let mut connection = into_wal(options).await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        // Not `run`, whose future is not `Send` where it is given a connection. A table of migrations may be shared with the
        // user's own, which are none of ours to miss.
        SqliteStorage::migrations().set_ignore_missing(true).run_direct(None, &mut *transaction, false).await?;
        transaction.commit().await?;
        connection.close().await?;
        Ok(())
    }

    /// A queue of this name, for jobs of one kind.
    #[must_use]
    pub fn queue<J: Send + 'static>(&self, name: impl Into<Arc<str>>) -> JobQueue<Self, J> {
        JobQueue::new(self.clone(), name)
    }

    /// The connections.
    #[must_use]
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// A connection that can begin a transaction. SQLite ends one by itself where the disk is full or fails; the connection is
    /// not told, and would refuse each that comes after it, for ever.
    async fn connection(&self) -> sqlx::Result<PoolConnection<Sqlite>> {
        loop {
            let mut connection = self.pool.acquire().await?;
            if connection.is_in_transaction() {
                // One that was given up may be about to be undone, in the order of what the connection is asked.
                connection.ping().await?;
            }
            if !connection.is_in_transaction() {
                return Ok(connection);
            }
            connection.close().await?;
        }
    }
}

/// A connection to the file, which has a log of writes from here on. That is a property of the file; to give it that is the one
/// thing for which SQLite does not wait itself: <https://github.com/launchbadge/sqlx/pull/1930#issuecomment-1168165414>.
async fn into_wal(options: &SqliteConnectOptions) -> Result<SqliteConnection, BoxError> {
    let options = options.clone().journal_mode(SqliteJournalMode::Wal);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match options.connect().await {
            Err(sqlx::Error::Database(error)) if is_busy(&*error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            connection => return Ok(connection?),
        }
    }
}

/// `SQLITE_BUSY` or `SQLITE_LOCKED`, which the lowest byte of the code tells.
fn is_busy(error: &dyn sqlx::error::DatabaseError) -> bool {
    let code = error.code().and_then(|code| code.parse::<u32>().ok());
    matches!(code.map(|code| code & 0xff), Some(5 | 6))
}

impl JobStore for SqliteStore {
    type Connection = SqliteConnection;

    async fn write(
        connection: &mut SqliteConnection,
        queue: &str,
        mut tasks: Vec<Task<Vec<u8>>>,
        grace: Option<Duration>,
    ) -> Result<(), BoxError> {
        if let Some(grace) = grace {
            // Rounded up: a job may wait a second longer, and none runs before its grace is over.
            let until = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_add(grace).as_secs() + 1;
            let hold = |task: Task<Vec<u8>>| {
                let until = task.run_at().unwrap_or(0).max(until);
                task.into_builder().run_at_timestamp(until).build()
            };
            tasks = tasks.into_iter().map(hold).collect();
        }
        Ok(push_tasks(connection, queue, &tasks).await?)
    }

    async fn write_alone(&self, queue: &str, tasks: Vec<Task<Vec<u8>>>, grace: Option<Duration>) -> Result<(), BoxError> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        Self::write(&mut transaction, queue, tasks, grace).await?;
        Ok(transaction.commit().await?)
    }

    async fn release(&self, jobs: Vec<Start>) -> Result<(), BoxError> {
        let jobs: Vec<_> = jobs.into_iter().map(|job| (job.id, job.at)).collect();
        // The plus keeps SQLite from the index of the status, along which it would look at each job that waits.
        sqlx::query(
            "UPDATE Jobs SET run_at = coalesce(start.at, unixepoch())
             FROM (SELECT value ->> 0 AS id, value ->> 1 AS at FROM json_each(?1)) AS start
             WHERE Jobs.id = start.id AND +status = 'Pending'",
        )
        .bind(serde_json::to_string(&jobs)?)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn alive(&self, worker: &str, queue: &str, dead_after: Duration) -> Result<(), BoxError> {
        let mut connection = self.connection().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO Workers (id, worker_type, storage_name, layers, last_seen, started_at)
             VALUES (?1, ?2, 'tower-background', '', unixepoch(), unixepoch())
             ON CONFLICT (id) DO UPDATE SET last_seen = unixepoch()",
        )
        .bind(worker)
        .bind(queue)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE Jobs SET
                 status = CASE WHEN attempts < max_attempts THEN 'Pending' ELSE 'Killed' END,
                 lock_by = NULL, lock_at = NULL, last_result = '{\"Err\":\"its worker died\"}'
             WHERE job_type = ?1 AND status IN ('Queued', 'Running')
                 AND lock_by IN (SELECT id FROM Workers WHERE last_seen < unixepoch() - ?2)",
        )
        .bind(queue)
        .bind(seconds(dead_after))
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    async fn forget(&self, queue: &str, dead_for: Duration) -> Result<(), BoxError> {
        sqlx::query(
            "DELETE FROM Workers WHERE worker_type = ?1 AND last_seen < unixepoch() - ?2
                 AND NOT EXISTS (SELECT 1 FROM Jobs WHERE lock_by = Workers.id)",
        )
        .bind(queue)
        .bind(seconds(dead_for))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn take(&self, worker: &str, queue: &str, limit: usize) -> Result<Vec<Taken>, BoxError> {
        // Two searches, each along an index of its own. That of apalis also reads each id as a ULID, and fails for all of a
        // batch, and for ever, where one is none: <https://docs.rs/crate/apalis-sqlite/1.0.0/source/src/from_row.rs>.
        let rows = sqlx::query(
            "UPDATE Jobs SET status = 'Running', lock_by = ?1, lock_at = unixepoch(), attempts = attempts + 1
             WHERE rowid IN (
                 SELECT rowid FROM (
                     SELECT * FROM (
                         SELECT rowid, priority, run_at, id FROM Jobs
                         WHERE job_type = ?2 AND status = 'Pending' AND lock_by IS NULL AND run_at <= unixepoch()
                         ORDER BY priority DESC, run_at, id LIMIT ?3
                     )
                     UNION ALL SELECT * FROM (
                         SELECT rowid, priority, run_at, id FROM Jobs
                         WHERE job_type = ?2 AND status = 'Failed' AND attempts < max_attempts AND run_at <= unixepoch()
                         ORDER BY priority DESC, run_at, id LIMIT ?3
                     )
                 ) ORDER BY priority DESC, run_at, id LIMIT ?3
             )
             RETURNING id, job, attempts",
        )
        .bind(worker)
        .bind(queue)
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| Ok(Taken { id: row.try_get(0)?, args: row.try_get_unchecked(1)?, attempt: row.try_get(2)? }))
            .collect()
    }

    async fn finish(&self, worker: &str, id: &str, attempt: u32, verdict: &Verdict) -> Result<(), BoxError> {
        sqlx::query(
            "UPDATE Jobs SET status = ?3, last_result = ?4, done_at = unixepoch(),
                 run_at = CASE WHEN ?5 > 0 THEN unixepoch() + ?5 ELSE run_at END
             WHERE id = ?1 AND lock_by = ?2 AND attempts = ?6 AND status = 'Running'",
        )
        .bind(id)
        .bind(worker)
        .bind(verdict.status())
        .bind(verdict.result().to_string())
        .bind(seconds(verdict.delay()))
        .bind(i64::from(attempt))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn listen(&self, _queue: &str, _due: mpsc::Sender<()>) -> Result<(), BoxError> {
        std::future::pending().await
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
