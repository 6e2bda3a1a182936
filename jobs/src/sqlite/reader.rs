//! Connections that only read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::{SqlitePool, sqlite::SqlitePoolOptions};

use super::file::{File, Identity};
use crate::{
    Error,
    bounds::within,
    info::{Depth, JobInfo, Which},
    queue_name::QueueName,
    time::now,
};

#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    open: Mutex<Open>,
}

/// Connections to a file, and which file this is.
#[derive(Debug)]
struct Open {
    pool: SqlitePool,
    identity: Option<Identity>,
}

impl Reader {
    pub(super) fn new(file: File) -> Self {
        let open = Mutex::new(Open::new(&file));
        Self { file, open }
    }

    /// When the first message of a queue becomes visible.
    pub(super) async fn first_visible(&self, queue: &QueueName) -> Result<Option<i64>, Error> {
        let sql = "SELECT min(visible_at) FROM background_jobs WHERE queue = ?";
        let query = sqlx::query_scalar(sql).bind(queue.as_str());
        self.run("read", async |pool| query.fetch_one(pool).await)
            .await
    }

    pub(super) async fn queues(&self) -> Result<Vec<String>, Error> {
        let query = sqlx::query_scalar("SELECT name FROM background_queues ORDER BY name");
        self.run("queues", async |pool| query.fetch_all(pool).await)
            .await
    }

    pub(super) async fn depth(&self, queue: &QueueName) -> Result<Depth, Error> {
        let sql = "SELECT count(*) FILTER (WHERE visible_at <= ?2),
            count(*) FILTER (WHERE visible_at > ?2), min(visible_at),
            (SELECT count(*) FROM background_jobs_archive WHERE queue = ?1)
            FROM background_jobs WHERE queue = ?1";
        let now = now();
        let query = sqlx::query_as(sql).bind(queue.as_str()).bind(now);
        let (ready, invisible, oldest, archived): (i64, i64, Option<i64>, i64) = self
            .run("depth", async |pool| query.fetch_one(pool).await)
            .await?;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let age = oldest.map_or(0, |oldest| count(now - oldest));
        Ok(Depth {
            ready: count(ready),
            invisible: count(invisible),
            archived: count(archived),
            age_of_oldest: std::time::Duration::from_millis(age),
        })
    }

    pub(super) async fn list(
        &self,
        queue: &QueueName,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        let sql = match which {
            Which::Queued => {
                "SELECT id, NULL, enqueued_at, visible_at, read_count, message, headers
                 FROM background_jobs WHERE queue = ? AND id > ? ORDER BY id LIMIT ?"
            }
            Which::Archived => {
                "SELECT id, archived_at, enqueued_at, visible_at, read_count, message, headers
                 FROM background_jobs_archive WHERE queue = ? AND id > ? ORDER BY id LIMIT ?"
            }
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let query = sqlx::query_as(sql)
            .bind(queue.as_str())
            .bind(after)
            .bind(limit);
        let rows = self
            .run("list", async |pool| query.fetch_all(pool).await)
            .await?;
        Ok(rows.into_iter().map(JobInfo::from_row).collect())
    }

    /// Runs a query. After an error, all connections are opened again: the file may be another one.
    async fn run<T>(
        &self,
        during: &'static str,
        query: impl AsyncFnOnce(&SqlitePool) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let pool = self.pool()?;
        let answer = within(during, self.file.bound, query(&pool)).await;
        if answer.is_err() {
            *self.lock() = Open::new(&self.file);
        }
        answer
    }

    /// Connections to the file that the path leads to. A worker that only reads would not notice
    /// otherwise that its file was deleted, and would find no more jobs.
    fn pool(&self) -> Result<SqlitePool, Error> {
        let mut open = self.lock();
        let identity = self.file.identity();
        if identity.is_none() {
            return Err(self.file.replaced());
        }
        if open.identity != identity {
            let path = self.file.path.display();
            tracing::error!(%path, "the file of a queue was replaced while it was open");
            *open = Open::new(&self.file);
        }
        Ok(open.pool.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(file: &File) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(file.bound)
            .test_before_acquire(false)
            .connect_lazy_with(file.options().read_only(true).busy_timeout(file.bound));
        let identity = file.identity();
        Self { pool, identity }
    }
}
