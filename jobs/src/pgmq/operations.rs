//! The statements of operators.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{channel, claims::json, seconds};
use crate::{
    info::{Depth, JobInfo, Which},
    message::Headers,
    queue_name::QueueName,
};

pub(super) async fn create(
    connection: &mut PgConnection,
    queue: QueueName,
) -> Result<(), sqlx::Error> {
    // Asked first, so that a role without the right to create tables can use what exists.
    let exists = sqlx::query_scalar("SELECT to_regclass('pgmq.q_' || $1) IS NOT NULL")
        .bind(queue.as_str())
        .fetch_one(&mut *connection);
    let exists: bool = exists.await?;
    if !exists {
        let create = sqlx::query("SELECT pgmq.create($1)").bind(queue.as_str());
        let create = create.execute(&mut *connection);
        create.await?;
    }
    Ok(())
}

pub(super) async fn queues(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let names = sqlx::query_scalar("SELECT queue_name::text FROM pgmq.meta ORDER BY queue_name")
        .fetch_all(&mut *connection);
    let names = names.await?;
    Ok(names)
}

pub(super) async fn depth(
    connection: &mut PgConnection,
    queue: QueueName,
) -> Result<Depth, sqlx::Error> {
    let sql = format!(
        "SELECT count(*) FILTER (WHERE vt <= now()), count(*) FILTER (WHERE vt > now()),
            coalesce(extract(epoch FROM now() - min(vt)), 0)::float8,
            (SELECT count(*) FROM pgmq.a_{queue})
         FROM pgmq.q_{queue}",
        queue = queue.as_str()
    );
    let counted = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *connection);
    let (ready, invisible, age, archived): (i64, i64, f64, i64) = counted.await?;
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(Depth {
        ready: count(ready),
        invisible: count(invisible),
        archived: count(archived),
        age_of_oldest: Duration::try_from_secs_f64(age).unwrap_or_default(),
    })
}

pub(super) async fn list(
    connection: &mut PgConnection,
    queue: QueueName,
    which: Which,
    after: i64,
    limit: usize,
) -> Result<Vec<JobInfo>, sqlx::Error> {
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
    let rows = sqlx::query_as(AssertSqlSafe(sql))
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection);
    let rows = rows.await?;
    Ok(rows.into_iter().map(JobInfo::from_row).collect())
}

/// pgmq gives each message a new id, so a restored one has another.
pub(super) async fn restore(
    connection: &mut PgConnection,
    queue: QueueName,
    id: i64,
    headers: Headers,
) -> Result<Option<i64>, sqlx::Error> {
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
    let restored = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(id)
        .bind(json(&headers))
        .bind(channel(&queue))
        .fetch_optional(&mut *connection);
    let restored = restored.await?;
    Ok(restored)
}

pub(super) async fn hurry(
    connection: &mut PgConnection,
    queue: QueueName,
    id: i64,
) -> Result<bool, sqlx::Error> {
    let sql = format!(
        "WITH hurried AS (
            UPDATE pgmq.q_{queue} SET vt = clock_timestamp()
            WHERE msg_id = $1 AND vt > clock_timestamp() RETURNING msg_id
        ), notified AS MATERIALIZED (SELECT pg_notify($2, ''))
        SELECT msg_id FROM hurried, notified",
        queue = queue.as_str()
    );
    let hurried = sqlx::query(AssertSqlSafe(sql))
        .bind(id)
        .bind(channel(&queue));
    let hurried = hurried.fetch_optional(&mut *connection);
    let hurried = hurried.await?;
    Ok(hurried.is_some())
}

pub(super) async fn remove(
    connection: &mut PgConnection,
    queue: QueueName,
    id: i64,
) -> Result<bool, sqlx::Error> {
    let sql = format!(
        "WITH archived AS (DELETE FROM pgmq.a_{queue} WHERE msg_id = $1 RETURNING msg_id)
         SELECT (SELECT count(*) FROM archived) > 0 OR pgmq.delete('{queue}', $1)",
        queue = queue.as_str()
    );
    let removed = sqlx::query_scalar(AssertSqlSafe(sql)).bind(id);
    let removed = removed.fetch_one(&mut *connection);
    let removed: bool = removed.await?;
    Ok(removed)
}

pub(super) async fn purge(
    connection: &mut PgConnection,
    queue: QueueName,
    age: Duration,
) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "DELETE FROM pgmq.a_{queue} WHERE msg_id IN (
            SELECT msg_id FROM pgmq.a_{queue}
            WHERE archived_at < now() - make_interval(secs => $1) LIMIT 10000
        )",
        queue = queue.as_str()
    );
    let purged = sqlx::query(AssertSqlSafe(sql)).bind(seconds(age));
    let purged = purged.execute(&mut *connection);
    let purged = purged.await?;
    Ok(purged.rows_affected())
}
