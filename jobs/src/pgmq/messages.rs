//! The statements for messages. Each is one statement, and so one transaction.
//!
//! Messages are sent, deleted and archived by the functions of pgmq. Reads, extensions and returns
//! are statements on its table, for three reasons. `pgmq.read` can not use the index, so delayed
//! messages slow each read. `pgmq.set_vt` does not compare `read_ct`, so a late call would change
//! the message of another worker. And the trigger of pgmq for notifications makes senders wait for
//! each other.

use std::time::{Duration, SystemTime};

use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};

use super::channel;
use crate::{
    engine::{Batch, Settled, Settlement},
    message::{Claim, Headers, Message, NewMessage, QueueName, Visible},
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
        Visible::In(delay) => (delay.as_secs_f64(), None),
        Visible::At(time) => {
            let since = time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            (0.0, Some(since.as_secs_f64()))
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

/// Reads messages. If there are fewer than asked for, tells when the next becomes visible.
pub(super) async fn read(
    connection: &mut PgConnection,
    queue: &QueueName,
    max: usize,
    invisible: Duration,
) -> Result<Batch, sqlx::Error> {
    // `now()` and not `clock_timestamp()`, so that the index on `vt` is used.
    let sql = format!(
        "WITH picked AS MATERIALIZED (
            SELECT msg_id FROM pgmq.q_{queue} WHERE vt <= now()
            ORDER BY vt LIMIT $1 FOR UPDATE SKIP LOCKED
        )
        UPDATE pgmq.q_{queue} AS q
        SET vt = clock_timestamp() + make_interval(secs => $2), read_ct = read_ct + 1,
            last_read_at = clock_timestamp()
        FROM picked WHERE q.msg_id = picked.msg_id
        RETURNING q.msg_id, q.read_ct, (extract(epoch FROM q.enqueued_at) * 1000)::bigint,
            q.message::text, q.headers::text",
        queue = queue.as_str()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .bind(invisible.as_secs_f64())
        .fetch_all(&mut *connection)
        .await?;
    let mut messages = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    messages.sort_unstable_by_key(|message| message.claim.id);
    if messages.len() >= max {
        return Ok(Batch {
            messages,
            next: Some(Duration::ZERO),
        });
    }
    let sql = format!(
        "SELECT extract(epoch FROM min(vt) - clock_timestamp())::float8 FROM pgmq.q_{queue}
         WHERE vt > now()",
        queue = queue.as_str()
    );
    let next: Option<f64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(&mut *connection)
        .await?;
    let next = next.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    Ok(Batch { messages, next })
}

fn message(row: &PgRow) -> Result<Message, sqlx::Error> {
    let claim = Claim {
        id: row.try_get(0)?,
        read_count: row.try_get(1)?,
    };
    let enqueued_at = time(row.try_get(2)?);
    let body: Option<String> = row.try_get(3)?;
    let headers: Option<String> = row.try_get(4)?;
    let body = body.unwrap_or_else(|| "null".to_owned());
    Ok(Message::new(claim, enqueued_at, body, headers.as_deref()))
}

/// A time from milliseconds since 1970.
pub(super) fn time(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Extends claims. Rows are locked in the order of their ids, as in all statements on many rows:
/// otherwise two statements of one worker could wait for each other.
pub(super) async fn extend(
    connection: &mut PgConnection,
    queue: &QueueName,
    claims: &[Claim],
    invisible: Duration,
) -> Result<Vec<i64>, sqlx::Error> {
    let sql = format!(
        "WITH ours AS MATERIALIZED ({ours})
        UPDATE pgmq.q_{queue} AS q SET vt = clock_timestamp() + make_interval(secs => $3)
        FROM ours WHERE q.msg_id = ours.msg_id RETURNING q.msg_id",
        ours = ours(queue),
        queue = queue.as_str()
    );
    let (ids, counts) = split(claims.iter());
    let query = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids)
        .bind(counts);
    query
        .bind(invisible.as_secs_f64())
        .fetch_all(connection)
        .await
}

/// The messages of claims that nobody has read since, locked.
fn ours(queue: &QueueName) -> String {
    format!(
        "SELECT q.msg_id FROM pgmq.q_{queue} AS q
         JOIN unnest($1::bigint[], $2::int[]) AS claim (id, read_ct)
            ON q.msg_id = claim.id AND q.read_ct = claim.read_ct
         ORDER BY q.msg_id FOR UPDATE OF q",
        queue = queue.as_str()
    )
}

fn split<'a>(claims: impl Iterator<Item = &'a Claim>) -> (Vec<i64>, Vec<i32>) {
    claims.map(|claim| (claim.id, claim.read_count)).unzip()
}

/// Ends claims. Returns the messages that were still claimed.
pub(super) async fn settle(
    connection: &mut PgConnection,
    queue: &QueueName,
    settled: &[Settled],
) -> Result<Vec<i64>, sqlx::Error> {
    let mut deleted = Vec::new();
    let mut returned = Vec::new();
    let mut archived = Vec::new();
    for Settled { claim, end } in settled {
        match end {
            Settlement::Delete => deleted.push(*claim),
            Settlement::Return(delay, headers) => returned.push((*claim, *delay, headers)),
            Settlement::Archive(headers) => archived.push((*claim, Duration::MAX, headers)),
        }
    }
    let mut ids = move_away(connection, queue, "delete", &deleted).await?;
    ids.extend(give_back(connection, queue, &returned).await?);
    if !archived.is_empty() {
        // Two transactions. Between them the message has its error, and is still claimed.
        give_back(connection, queue, &archived).await?;
        let claims: Vec<Claim> = archived.iter().map(|(claim, ..)| *claim).collect();
        ids.extend(move_away(connection, queue, "archive", &claims).await?);
    }
    Ok(ids)
}

/// Deletes or archives messages that are still claimed.
async fn move_away(
    connection: &mut PgConnection,
    queue: &QueueName,
    function: &str,
    claims: &[Claim],
) -> Result<Vec<i64>, sqlx::Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "WITH ours AS MATERIALIZED ({ours})
        SELECT pgmq.{function}('{queue}', (SELECT array_agg(msg_id) FROM ours))",
        ours = ours(queue),
        queue = queue.as_str()
    );
    let (ids, counts) = split(claims.iter());
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids)
        .bind(counts)
        .fetch_all(connection)
        .await
}

/// Writes headers, and makes messages visible after a delay. `Duration::MAX` leaves the time as it
/// is.
async fn give_back(
    connection: &mut PgConnection,
    queue: &QueueName,
    claims: &[(Claim, Duration, &Headers)],
) -> Result<Vec<i64>, sqlx::Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "WITH ours AS MATERIALIZED ({ours}), returned AS (
            UPDATE pgmq.q_{queue} AS q
            SET headers = claim.headers::jsonb,
                vt = coalesce(clock_timestamp() + make_interval(secs => claim.delay), vt)
            FROM ours JOIN unnest($1::bigint[], $3::float8[], $4::text[])
                AS claim (id, delay, headers) ON claim.id = ours.msg_id
            WHERE q.msg_id = ours.msg_id RETURNING q.msg_id
        ), notified AS MATERIALIZED (SELECT pg_notify($5, ''))
        SELECT msg_id FROM returned, notified",
        ours = ours(queue),
        queue = queue.as_str()
    );
    let (ids, counts) = split(claims.iter().map(|(claim, ..)| claim));
    let seconds = |delay: &Duration| (*delay != Duration::MAX).then_some(delay.as_secs_f64());
    let delays: Vec<Option<f64>> = claims.iter().map(|(_, delay, _)| seconds(delay)).collect();
    let headers = claims
        .iter()
        .map(|(.., headers)| json(headers))
        .collect::<Vec<_>>();
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids)
        .bind(counts)
        .bind(delays)
        .bind(headers)
        .bind(channel(queue))
        .fetch_all(connection)
        .await
}

pub(super) fn json(headers: &Headers) -> String {
    serde_json::Value::Object(headers.clone()).to_string()
}
