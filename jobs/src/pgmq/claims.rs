//! The statements of workers. Each is one statement, and so one transaction.
//!
//! Messages are deleted and archived by the functions of pgmq. Reads, extensions and returns are
//! statements on its table, for two reasons. `pgmq.read` can not use the index, so delayed messages
//! slow each read. And `pgmq.set_vt` does not compare `read_ct`, so a late call would change the
//! message of another worker.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{channel, seconds};
use crate::{
    engine::{Batch, Settled, Settlement},
    message::{Claim, Headers, Message},
    queue_name::QueueName,
};

/// A message, or none, and the seconds until the next message becomes visible.
type ReadRow = (
    Option<i64>,
    Option<i32>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<f64>,
);

/// Reads messages. If there are fewer than asked for, tells when the next becomes visible. Both are
/// one statement, so a job starts after one round trip.
pub(super) async fn read(
    connection: &mut PgConnection,
    queue: QueueName,
    max: usize,
    invisible: Duration,
) -> Result<Batch, sqlx::Error> {
    // `now()` and not `clock_timestamp()`, so that the index on `vt` is used.
    let sql = format!(
        "WITH picked AS MATERIALIZED (
            SELECT msg_id FROM pgmq.q_{queue} WHERE vt <= now()
            ORDER BY vt LIMIT $1 FOR UPDATE SKIP LOCKED
        ), claimed AS (
            UPDATE pgmq.q_{queue} AS q
            SET vt = clock_timestamp() + make_interval(secs => $2), read_ct = read_ct + 1,
                last_read_at = clock_timestamp()
            FROM picked WHERE q.msg_id = picked.msg_id
            RETURNING q.msg_id, q.read_ct,
                (extract(epoch FROM q.enqueued_at) * 1000)::bigint AS enqueued_at,
                q.message::text AS message, q.headers::text AS headers
        ), next AS (
            SELECT CASE WHEN (SELECT count(*) FROM picked) < $1 THEN (
                SELECT extract(epoch FROM min(vt) - clock_timestamp())::float8
                FROM pgmq.q_{queue} WHERE vt > now()
            ) END AS seconds
        )
        SELECT claimed.*, next.seconds FROM next LEFT JOIN claimed ON true",
        queue = queue.as_str()
    );
    let rows: Vec<ReadRow> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .bind(seconds(invisible))
        .fetch_all(connection)
        .await?;
    let next = rows.first().and_then(|row| row.5);
    let next = next.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let message = |(id, read_count, enqueued_at, body, headers, _): ReadRow| {
        Some((id?, read_count?, enqueued_at?, body, headers))
    };
    let messages = Message::from_rows(rows.into_iter().filter_map(message));
    let is_full = messages.len() >= max;
    Ok(Batch {
        messages,
        next: if is_full { Some(Duration::ZERO) } else { next },
    })
}

/// Extends claims. Rows are locked in the order of their ids, as in all statements on many rows:
/// otherwise two statements of one worker could wait for each other.
pub(super) async fn extend(
    connection: &mut PgConnection,
    queue: QueueName,
    claims: Vec<Claim>,
    invisible: Duration,
) -> Result<Vec<i64>, sqlx::Error> {
    let sql = format!(
        "WITH ours AS MATERIALIZED ({ours})
        UPDATE pgmq.q_{queue} AS q SET vt = clock_timestamp() + make_interval(secs => $3)
        FROM ours WHERE q.msg_id = ours.msg_id RETURNING q.msg_id",
        ours = ours(&queue),
        queue = queue.as_str()
    );
    let (ids, counts) = split(claims.iter());
    let query = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(ids)
        .bind(counts);
    query.bind(seconds(invisible)).fetch_all(connection).await
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
    queue: QueueName,
    settled: Vec<Settled>,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut deleted = Vec::new();
    let mut returned = Vec::new();
    let mut archived = Vec::new();
    for Settled { claim, end } in &settled {
        match end {
            Settlement::Delete => deleted.push(*claim),
            Settlement::Return(delay, headers) => returned.push((*claim, Some(*delay), headers)),
            Settlement::Archive(headers) => archived.push((*claim, None, headers)),
        }
    }
    let mut ids = move_away(connection, &queue, "delete", &deleted).await?;
    ids.extend(give_back(connection, &queue, &returned).await?);
    if !archived.is_empty() {
        // Two transactions. Between them the message has its error, and is still claimed.
        give_back(connection, &queue, &archived).await?;
        let claims: Vec<Claim> = archived.iter().map(|(claim, ..)| *claim).collect();
        ids.extend(move_away(connection, &queue, "archive", &claims).await?);
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

/// Writes headers, and makes messages visible after a delay. `None` leaves the time as it is.
async fn give_back(
    connection: &mut PgConnection,
    queue: &QueueName,
    claims: &[(Claim, Option<Duration>, &Headers)],
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
    let delays: Vec<Option<f64>> = claims
        .iter()
        .map(|(_, delay, _)| delay.map(seconds))
        .collect();
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
