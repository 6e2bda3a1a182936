//! Connections that only read.

use std::sync::{Mutex, PoisonError};

use sqlx::{
    Row, SqlitePool,
    sqlite::{SqlitePoolOptions, SqliteRow},
};

use super::{file::File, now, time};
use crate::{
    Error,
    bounds::within,
    engine::{Depth, JobInfo, Which},
    message::{QueueName, parse_headers},
};

#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    pool: Mutex<SqlitePool>,
}

impl Reader {
    pub(super) fn new(file: File) -> Self {
        let pool = Mutex::new(pool(&file));
        Self { file, pool }
    }

    /// When the first message of a queue becomes visible.
    pub(super) async fn first_visible(&self, queue: &QueueName) -> Result<Option<i64>, Error> {
        let sql = "SELECT min(visible_at) FROM background_jobs WHERE queue = ?";
        let query = sqlx::query_scalar(sql).bind(queue.as_str());
        self.checked(within("read", self.file.bound, query.fetch_one(&self.pool())).await)
    }

    pub(super) async fn queues(&self) -> Result<Vec<String>, Error> {
        let query = sqlx::query_scalar("SELECT name FROM background_queues ORDER BY name");
        self.checked(within("queues", self.file.bound, query.fetch_all(&self.pool())).await)
    }

    pub(super) async fn depth(&self, queue: &QueueName) -> Result<Depth, Error> {
        let sql = "SELECT count(*) FILTER (WHERE visible_at <= ?2),
            count(*) FILTER (WHERE visible_at > ?2), min(visible_at),
            (SELECT count(*) FROM background_jobs_archive WHERE queue = ?1)
            FROM background_jobs WHERE queue = ?1";
        let now = now();
        let query = sqlx::query_as(sql).bind(queue.as_str()).bind(now);
        let (ready, invisible, oldest, archived): (i64, i64, Option<i64>, i64) =
            self.checked(within("depth", self.file.bound, query.fetch_one(&self.pool())).await)?;
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
        let query = sqlx::query(sql)
            .bind(queue.as_str())
            .bind(after)
            .bind(limit);
        let rows =
            self.checked(within("list", self.file.bound, query.fetch_all(&self.pool())).await)?;
        let infos: Result<_, sqlx::Error> = rows.iter().map(info).collect();
        infos.map_err(|error| Error::database("list", error))
    }

    pub(super) async fn find(&self, queue: &QueueName, id: i64) -> Result<Option<JobInfo>, Error> {
        for which in [Which::Queued, Which::Archived] {
            let found = self.list(queue, which, id - 1, 1).await?.into_iter().next();
            if let Some(found) = found.filter(|found| found.id == id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn pool(&self) -> SqlitePool {
        self.pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// After an error all connections are opened again: the file may be another one.
    fn checked<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if answer.is_err() {
            *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = pool(&self.file);
        }
        answer
    }
}

fn pool(file: &File) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(file.bound)
        .test_before_acquire(false)
        .connect_lazy_with(file.options().read_only(true).busy_timeout(file.bound))
}

fn info(row: &SqliteRow) -> Result<JobInfo, sqlx::Error> {
    let archived_at: Option<i64> = row.try_get(1)?;
    let headers: Option<String> = row.try_get(6)?;
    Ok(JobInfo {
        id: row.try_get(0)?,
        archived_at: archived_at.map(time),
        enqueued_at: time(row.try_get(2)?),
        visible_at: time(row.try_get(3)?),
        read_count: row.try_get(4)?,
        body: row.try_get(5)?,
        headers: parse_headers(headers.as_deref()),
    })
}
