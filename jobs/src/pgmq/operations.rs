//! The statements of operators.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Row, postgres::PgRow};

use super::{
    channel,
    messages::{json, time},
    sessions::Sessions,
};
use crate::{
    Error,
    bounds::within,
    engine::{Depth, JobInfo, Which},
    message::{Headers, QueueName, parse_headers},
};

pub(super) async fn create(work: &Arc<Sessions>, queue: &QueueName) -> Result<(), Error> {
    let mut session = work.get().await?;
    // Asked first, so that a role without the right to create tables can use what exists.
    let exists = sqlx::query_scalar("SELECT to_regclass('pgmq.q_' || $1) IS NOT NULL")
        .bind(queue.as_str())
        .fetch_one(&mut session.connection);
    let exists: bool = within("create", session.bound, exists).await?;
    if !exists {
        let create = sqlx::query("SELECT pgmq.create($1)").bind(queue.as_str());
        let create = create.execute(&mut session.connection);
        within("create", session.bound, create).await?;
    }
    session.done();
    Ok(())
}

pub(super) async fn queues(work: &Arc<Sessions>) -> Result<Vec<String>, Error> {
    let mut session = work.get().await?;
    let names = sqlx::query_scalar("SELECT queue_name::text FROM pgmq.meta ORDER BY queue_name")
        .fetch_all(&mut session.connection);
    let names = within("queues", session.bound, names).await?;
    session.done();
    Ok(names)
}

pub(super) async fn depth(work: &Arc<Sessions>, queue: &QueueName) -> Result<Depth, Error> {
    let mut session = work.get().await?;
    let sql = format!(
        "SELECT count(*) FILTER (WHERE vt <= now()), count(*) FILTER (WHERE vt > now()),
            coalesce(extract(epoch FROM now() - min(vt)), 0)::float8,
            (SELECT count(*) FROM pgmq.a_{queue})
         FROM pgmq.q_{queue}",
        queue = queue.as_str()
    );
    let counted = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut session.connection);
    let (ready, invisible, age, archived): (i64, i64, f64, i64) =
        within("depth", session.bound, counted).await?;
    session.done();
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(Depth {
        ready: count(ready),
        invisible: count(invisible),
        archived: count(archived),
        age_of_oldest: Duration::try_from_secs_f64(age).unwrap_or_default(),
    })
}

pub(super) async fn list(
    work: &Arc<Sessions>,
    queue: &QueueName,
    which: Which,
    after: i64,
    limit: usize,
) -> Result<Vec<JobInfo>, Error> {
    let mut session = work.get().await?;
    let (table, archived_at) = match which {
        Which::Queued => ("q", "NULL::timestamptz"),
        Which::Archived => ("a", "archived_at"),
    };
    let millis = |column: &str| format!("(extract(epoch FROM {column}) * 1000)::bigint");
    let sql = format!(
        "SELECT msg_id, {archived_at}, {enqueued_at}, {vt}, read_ct, message::text, headers::text
         FROM pgmq.{table}_{queue} WHERE msg_id > $1 ORDER BY msg_id LIMIT $2",
        archived_at = millis(archived_at),
        enqueued_at = millis("enqueued_at"),
        vt = millis("vt"),
        queue = queue.as_str()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut session.connection);
    let rows = within("list", session.bound, rows).await?;
    session.done();
    let infos: Result<_, sqlx::Error> = rows.iter().map(info).collect();
    infos.map_err(|error| Error::database("list", error))
}

fn info(row: &PgRow) -> Result<JobInfo, sqlx::Error> {
    let archived_at: Option<i64> = row.try_get(1)?;
    let body: Option<String> = row.try_get(5)?;
    let headers: Option<String> = row.try_get(6)?;
    Ok(JobInfo {
        id: row.try_get(0)?,
        archived_at: archived_at.map(time),
        enqueued_at: time(row.try_get(2)?),
        visible_at: time(row.try_get(3)?),
        read_count: row.try_get(4)?,
        body: body.unwrap_or_default(),
        headers: parse_headers(headers.as_deref()),
    })
}

/// pgmq gives each message a new id, so a restored one has another.
pub(super) async fn restore(
    work: &Arc<Sessions>,
    queue: &QueueName,
    id: i64,
    headers: &Headers,
) -> Result<Option<i64>, Error> {
    let sql = format!(
        "WITH archived AS (
            DELETE FROM pgmq.a_{queue} WHERE msg_id = $1 RETURNING enqueued_at, message
        ), restored AS (
            INSERT INTO pgmq.q_{queue} (vt, enqueued_at, message, headers)
            SELECT clock_timestamp(), enqueued_at, message, $2::jsonb FROM archived
            RETURNING msg_id
        ), notified AS MATERIALIZED (SELECT pg_notify($3, ''))
        SELECT msg_id FROM restored, notified",
        queue = queue.as_str()
    );
    let mut session = work.get().await?;
    let restored = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(id)
        .bind(json(headers))
        .bind(channel(queue))
        .fetch_optional(&mut session.connection);
    let restored = within("retry", session.bound, restored).await?;
    session.done();
    Ok(restored)
}

pub(super) async fn hurry(work: &Arc<Sessions>, queue: &QueueName, id: i64) -> Result<bool, Error> {
    let sql = format!(
        "WITH hurried AS (
            UPDATE pgmq.q_{queue} SET vt = clock_timestamp()
            WHERE msg_id = $1 AND vt > clock_timestamp() RETURNING msg_id
        ), notified AS MATERIALIZED (SELECT pg_notify($2, ''))
        SELECT msg_id FROM hurried, notified",
        queue = queue.as_str()
    );
    let mut session = work.get().await?;
    let hurried = sqlx::query(AssertSqlSafe(sql))
        .bind(id)
        .bind(channel(queue));
    let hurried = hurried.fetch_optional(&mut session.connection);
    let hurried = within("retry", session.bound, hurried).await?;
    session.done();
    Ok(hurried.is_some())
}

pub(super) async fn remove(
    work: &Arc<Sessions>,
    queue: &QueueName,
    id: i64,
) -> Result<bool, Error> {
    let sql = format!(
        "WITH archived AS (DELETE FROM pgmq.a_{queue} WHERE msg_id = $1 RETURNING msg_id)
         SELECT (SELECT count(*) FROM archived) > 0 OR pgmq.delete('{queue}', $1)",
        queue = queue.as_str()
    );
    let mut session = work.get().await?;
    let removed = sqlx::query_scalar(AssertSqlSafe(sql)).bind(id);
    let removed = removed.fetch_one(&mut session.connection);
    let removed: bool = within("discard", session.bound, removed).await?;
    session.done();
    Ok(removed)
}

pub(super) async fn purge(
    work: &Arc<Sessions>,
    queue: &QueueName,
    age: Duration,
) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM pgmq.a_{queue} WHERE msg_id IN (
            SELECT msg_id FROM pgmq.a_{queue}
            WHERE archived_at < now() - make_interval(secs => $1) LIMIT 10000
        )",
        queue = queue.as_str()
    );
    let mut session = work.get().await?;
    let purged = sqlx::query(AssertSqlSafe(sql)).bind(age.as_secs_f64());
    let purged = purged.execute(&mut session.connection);
    let purged = within("purge", session.bound, purged).await?;
    session.done();
    Ok(purged.rows_affected())
}
