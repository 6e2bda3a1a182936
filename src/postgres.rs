//! [`PostgresStore`]: jobs in a database of PostgreSQL's, in the tables of apalis.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use apalis_core::task::Task;
use apalis_postgres::PostgresStorage;
use serde_json::Value;
use sqlx::{
    PgConnection, PgPool, Row,
    postgres::{PgListener, PgPoolOptions, types::PgHstore},
};
use tokio::sync::mpsc;

use crate::{
    error::BoxError,
    job_queue::JobQueue,
    job_store::{JobStore, Start, Taken, Verdict},
};

/// Where apalis tells of jobs that are due.
const CHANNEL: &str = "apalis::job::insert";

/// A database of PostgreSQL's that keeps jobs, in the tables of apalis: workers and tools of apalis' can use them as well.
///
/// Whether a connection is encrypted is a matter of the features with which one's own crate asks for sqlx, and of the URL.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use sqlx::PgPool;
/// use tower_background::{BoxError, PostgresStore, Receipt};
///
/// async fn sign_up(pool: &PgPool, store: &PostgresStore, address: &str) -> Result<(), BoxError> {
///     let mails = store.queue::<String>("mails").held(Duration::from_secs(600));
///     let mut transaction = pool.begin().await?;
///     sqlx::query("INSERT INTO users (address) VALUES ($1)").bind(address).execute(&mut *transaction).await?;
///     let held = mails.push_in(&mut transaction, address.to_owned()).await?;
///     transaction.commit().await?;
///     // Runs now, or ten minutes after it was written if this is never reached.
///     held.release().await
/// }
///
/// async fn connect(url: &str) -> Result<PostgresStore, BoxError> {
///     let store = PostgresStore::new(PgPool::connect(url).await?);
///     store.setup().await?;
///     Ok(store)
/// }
/// # let _ = (sign_up, connect);
/// ```
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
}

impl PostgresStore {
    /// The store behind these connections. A worker has one more for itself while it runs, on which it is told of jobs.
    #[must_use]
    pub const fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Brings the tables up to date, in the schema `apalis`. Any number of processes may do so at once: they wait for each other.
    ///
    /// It asks for the extension `hstore`, which comes with PostgreSQL.
    ///
    /// # Errors
    ///
    /// The database could not be reached, or refused.
    pub async fn setup(&self) -> Result<(), BoxError> {
        let mut connection = self.pool.acquire().await?;
        // Not `run`, whose future is not `Send` where it is given a connection. It locks the database against others of its kind.
        PostgresStorage::migrations().run_direct(None, &mut *connection, false).await?;
        Ok(())
    }

    /// A queue of this name, for jobs of one kind.
    #[must_use]
    pub fn queue<J: Send + 'static>(&self, name: impl Into<Arc<str>>) -> JobQueue<Self, J> {
        JobQueue::new(self.clone(), name)
    }

    /// The connections.
    #[must_use]
    pub const fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl JobStore for PostgresStore {
    type Connection = PgConnection;

    /// As apalis writes jobs, but for two things. The time is the server's, also that of a grace. And a key that is there is no
    /// error, which would spoil the whole transaction.
    async fn write(
        connection: &mut PgConnection,
        queue: &str,
        tasks: Vec<Task<Vec<u8>>>,
        grace: Option<Duration>,
    ) -> Result<(), BoxError> {
        let column = |task: &Task<Vec<u8>>| task.task_id().map(ToString::to_string);
        let ids: Vec<_> = tasks.iter().map(column).collect();
        let attempts: Vec<_> =
            tasks.iter().map(|task| task.max_attempts().map_or(Ok(25), i32::try_from)).collect::<Result<_, _>>()?;
        let starts: Vec<_> = tasks.iter().map(|task| task.run_at().map(i64::try_from).transpose()).collect::<Result<_, _>>()?;
        let priorities: Vec<_> =
            tasks.iter().map(|task| task.priority().map_or(Ok(0), i32::try_from)).collect::<Result<_, _>>()?;
        let metadata: Vec<_> = tasks.iter().map(metadata).collect();
        let keys: Vec<_> = tasks.iter().map(|task| task.idempotency_key().map(str::to_owned)).collect();
        let args: Vec<_> = tasks.into_iter().map(|task| task.args).collect();
        sqlx::query(
            "INSERT INTO apalis.jobs
                 (id, job_type, job, status, attempts, max_attempts, run_at, priority, metadata, idempotency_key)
             SELECT new.id, $1, new.job, 'Pending', 0, new.max_attempts,
                 greatest(coalesce(to_timestamp(new.start), now()), now() + make_interval(secs => $2)),
                 new.priority, new.metadata, new.key
             FROM unnest($3::text[], $4::bytea[], $5::int[], $6::bigint[], $7::int[], $8::hstore[], $9::text[])
                 AS new (id, job, max_attempts, start, priority, metadata, key)
             ON CONFLICT (job_type, idempotency_key) DO NOTHING",
        )
        .bind(queue)
        .bind(grace.unwrap_or_default().as_secs_f64())
        .bind(ids)
        .bind(args)
        .bind(attempts)
        .bind(starts)
        .bind(priorities)
        .bind(metadata)
        .bind(keys)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn write_alone(&self, queue: &str, tasks: Vec<Task<Vec<u8>>>, grace: Option<Duration>) -> Result<(), BoxError> {
        // One statement, which is a transaction of its own.
        Self::write(&mut *self.pool.acquire().await?, queue, tasks, grace).await
    }

    async fn release(&self, jobs: Vec<Start>) -> Result<(), BoxError> {
        let (ids, starts): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.id, job.at)).unzip();
        // Only new rows are told of by the tables themselves: a worker would sleep on until it asks again.
        sqlx::query(
            "WITH released AS (
                 UPDATE apalis.jobs SET run_at = coalesce(to_timestamp(held.start), now())
                 FROM unnest($1::text[], $2::bigint[]) AS held (id, start)
                 WHERE jobs.id = held.id AND status = 'Pending'
                 RETURNING jobs.id, jobs.job_type, jobs.run_at
             )
             SELECT pg_notify($3, json_build_object('job_type', job_type, 'id', id, 'run_at', run_at)::text)
             FROM released WHERE run_at <= now()",
        )
        .bind(ids)
        .bind(starts)
        .bind(CHANNEL)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn alive(&self, worker: &str, queue: &str, dead_after: Duration) -> Result<(), BoxError> {
        sqlx::query(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
             VALUES ($1, $2, 'tower-background', '', now(), now())
             ON CONFLICT (id) DO UPDATE SET last_seen = now()",
        )
        .bind(worker)
        .bind(queue)
        .execute(&self.pool)
        .await?;
        sqlx::query(
            "UPDATE apalis.jobs SET
                 status = CASE WHEN attempts < max_attempts THEN 'Pending' ELSE 'Killed' END,
                 lock_by = NULL, lock_at = NULL, last_result = '{\"Err\":\"its worker died\"}'
             WHERE id IN (
                 SELECT jobs.id FROM apalis.jobs JOIN apalis.workers ON workers.id = jobs.lock_by
                 WHERE jobs.job_type = $1 AND jobs.status IN ('Queued', 'Running')
                     AND workers.last_seen < now() - make_interval(secs => $2)
                 FOR UPDATE OF jobs SKIP LOCKED
             )",
        )
        .bind(queue)
        .bind(dead_after.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn forget(&self, queue: &str, dead_for: Duration) -> Result<(), BoxError> {
        // One whose row is locked is being struck off by another, or has just taken a job after all.
        sqlx::query(
            "DELETE FROM apalis.workers WHERE id IN (
                 SELECT id FROM apalis.workers AS worker
                 WHERE worker_type = $1 AND last_seen < now() - make_interval(secs => $2)
                     AND NOT EXISTS (SELECT 1 FROM apalis.jobs WHERE lock_by = worker.id)
                 FOR UPDATE SKIP LOCKED
             )",
        )
        .bind(queue)
        .bind(dead_for.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn take(&self, worker: &str, queue: &str, limit: usize) -> Result<Vec<Taken>, BoxError> {
        // That of apalis also reads each id as a ULID, and fails for all of a batch, and for ever, where one is none:
        // <https://docs.rs/crate/apalis-postgres/1.0.0/source/src/from_row.rs>.
        let rows = sqlx::query(
            "WITH due AS (
                 SELECT id FROM apalis.jobs
                 WHERE (status = 'Pending' OR (status = 'Failed' AND attempts < max_attempts))
                     AND run_at <= now() AND job_type = $2
                 ORDER BY priority DESC, run_at LIMIT $3
                 FOR UPDATE SKIP LOCKED
             )
             UPDATE apalis.jobs SET status = 'Running', lock_by = $1, lock_at = now(), attempts = attempts + 1
             FROM due WHERE jobs.id = due.id
             RETURNING jobs.id, jobs.job, jobs.attempts",
        )
        .bind(worker)
        .bind(queue)
        .bind(i64::try_from(limit)?)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let attempt = row.try_get::<i32, _>(2)?.unsigned_abs();
                Ok(Taken { id: row.try_get(0)?, args: row.try_get(1)?, attempt })
            })
            .collect()
    }

    async fn finish(&self, worker: &str, id: &str, attempt: u32, verdict: &Verdict) -> Result<(), BoxError> {
        sqlx::query(
            "UPDATE apalis.jobs SET status = $3, last_result = $4::jsonb, done_at = now(),
                 run_at = CASE WHEN $5 > 0 THEN now() + make_interval(secs => $5) ELSE run_at END
             WHERE id = $1 AND lock_by = $2 AND attempts = $6 AND status = 'Running'",
        )
        .bind(id)
        .bind(worker)
        .bind(verdict.status())
        .bind(verdict.result().to_string())
        .bind(verdict.delay().as_secs_f64())
        .bind(i64::from(attempt))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn listen(&self, queue: &str, due: mpsc::Sender<()>) -> Result<(), BoxError> {
        // A pool of its own, as the one connection of a small pool would be gone for good.
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with((*self.pool.connect_options()).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        loop {
            // What came while the connection was away is told by nobody: `None` is a reason to ask.
            let is_ours = match listener.try_recv().await? {
                Some(told) => serde_json::from_str::<Value>(told.payload()).is_ok_and(|told| told["job_type"] == queue),
                None => true,
            };
            if is_ours {
                // One that is not yet taken is as good as two.
                let _ = due.try_send(());
            }
        }
    }
}

fn metadata(task: &Task<Vec<u8>>) -> PgHstore {
    let metadata = task.metadata().clone().into_inner().into_iter().map(|(key, value)| (key, Some(value)));
    PgHstore(metadata.collect::<BTreeMap<_, _>>())
}
