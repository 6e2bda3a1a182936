//! The statements of those who push. Each is one statement, and so one transaction.
//!
//! The trigger of pgmq for notifications is not used, as it makes senders wait for each other.

use std::time::SystemTime;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{channel, seconds};
use crate::{
    message::{NewMessage, Visible},
    queue_name::QueueName,
};

/// Wakes the workers of a queue, on other machines too.
pub(super) async fn notify(
    connection: &mut PgConnection,
    queue: &QueueName,
) -> Result<(), sqlx::Error> {
    let notify = sqlx::query("SELECT pg_notify($1, '')").bind(channel(queue));
    notify.execute(connection).await.map(drop)
}

/// Sends one message, with a notification in the same statement.
pub(super) async fn send_one(
    connection: &mut PgConnection,
    queue: &QueueName,
    message: &NewMessage,
) -> Result<i64, sqlx::Error> {
    let (delay, at) = visible(message);
    let sql = "WITH sent AS MATERIALIZED (
            SELECT pgmq.send($1, $2::jsonb, $3::jsonb,
                coalesce(to_timestamp($5), clock_timestamp() + make_interval(secs => $4))) AS id
        ), notified AS MATERIALIZED (SELECT pg_notify($6, ''))
        SELECT id FROM sent, notified";
    sqlx::query_scalar(sql)
        .bind(queue.as_str())
        .bind(&message.body)
        .bind(message.headers_json())
        .bind(delay)
        .bind(at)
        .bind(channel(queue))
        .fetch_one(connection)
        .await
}

/// Sends messages, without a notification. Returns their ids in the same order.
pub(super) async fn send(
    connection: &mut PgConnection,
    queue: &QueueName,
    messages: &[NewMessage],
) -> Result<Vec<i64>, sqlx::Error> {
    let bodies: Vec<&str> = messages
        .iter()
        .map(|message| message.body.as_str())
        .collect();
    let headers: Vec<Option<String>> = messages.iter().map(NewMessage::headers_json).collect();
    let Some(first) = messages.first() else {
        return Ok(Vec::new());
    };
    if messages
        .iter()
        .all(|message| message.visible == first.visible)
    {
        let (delay, at) = visible(first);
        let sql = "SELECT id FROM pgmq.send_batch($1, $2::text[]::jsonb[], $3::text[]::jsonb[],
                coalesce(to_timestamp($5), clock_timestamp() + make_interval(secs => $4))) AS id
            ORDER BY id";
        return sqlx::query_scalar(sql)
            .bind(queue.as_str())
            .bind(bodies)
            .bind(headers)
            .bind(delay)
            .bind(at)
            .fetch_all(connection)
            .await;
    }
    let (delays, times): (Vec<f64>, Vec<Option<f64>>) = messages.iter().map(visible).unzip();
    let sql = "WITH waiting AS (
            SELECT * FROM unnest($2::text[], $3::text[], $4::float8[], $5::float8[])
                WITH ORDINALITY AS waiting (body, headers, delay, at, place)
        ), sent AS MATERIALIZED (
            SELECT place, pgmq.send($1, body::jsonb, headers::jsonb,
                coalesce(to_timestamp(at), clock_timestamp() + make_interval(secs => delay))) AS id
            FROM waiting
        )
        SELECT id FROM sent ORDER BY place";
    sqlx::query_scalar(sql)
        .bind(queue.as_str())
        .bind(bodies)
        .bind(headers)
        .bind(delays)
        .bind(times)
        .fetch_all(connection)
        .await
}

/// The delay in seconds, or the time as seconds since 1970.
fn visible(message: &NewMessage) -> (f64, Option<f64>) {
    match message.visible {
        Visible::In(delay) => (seconds(delay), None),
        Visible::At(time) => {
            let since = time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            (0.0, Some(seconds(since)))
        }
    }
}

/// Makes messages visible that nobody has read.
pub(super) async fn release(
    connection: &mut PgConnection,
    queue: &QueueName,
    ids: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let sql = format!(
        "WITH released AS (
            UPDATE pgmq.q_{queue} SET vt = clock_timestamp()
            WHERE msg_id = ANY ($1) AND read_ct = 0 AND vt > clock_timestamp() RETURNING msg_id
        ), notified AS MATERIALIZED (SELECT pg_notify($2, ''))
        SELECT msg_id FROM released, notified",
        queue = queue.as_str()
    );
    let query = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids)
        .bind(channel(queue));
    query.fetch_all(connection).await
}

/// Deletes messages that nobody has read.
pub(super) async fn discard(
    connection: &mut PgConnection,
    queue: &QueueName,
    ids: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let sql = format!(
        "WITH unread AS MATERIALIZED (
            SELECT msg_id FROM pgmq.q_{queue}
            WHERE msg_id = ANY ($1) AND read_ct = 0 ORDER BY msg_id FOR UPDATE
        )
        SELECT pgmq.delete('{queue}', (SELECT array_agg(msg_id) FROM unread))",
        queue = queue.as_str()
    );
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids)
        .fetch_all(connection)
        .await
}
