//! The statements of workers.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::statements::change;
use crate::{
    engine::{Settled, Settlement},
    message::{Claim, Message, MessageRow},
    queue_name::QueueName,
    time::{later, now},
};

pub(super) async fn read(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    max: usize,
    invisible: Duration,
) -> Result<Vec<Message>, sqlx::Error> {
    let sql = "UPDATE background_jobs
        SET visible_at = ?3, read_count = read_count + 1, last_read_at = ?2
        WHERE id IN (
            SELECT id FROM background_jobs WHERE queue = ?1 AND visible_at <= ?2
            ORDER BY visible_at, id LIMIT ?4
        )
        RETURNING id, read_count, enqueued_at, message, headers";
    let rows: Vec<MessageRow> = sqlx::query_as(sql)
        .bind(queue.as_str())
        .bind(now())
        .bind(later(invisible))
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    Ok(Message::from_rows(rows))
}

/// Claims as a JSON array for `json_each`. The `+queue` in statements with claims keeps SQLite from
/// reading the whole queue by its index, as the ids are the better way.
fn claims_json<'a>(claims: impl Iterator<Item = &'a Claim>) -> String {
    let claims = claims.map(|claim| json!([claim.id, claim.read_count]));
    claims.collect::<Value>().to_string()
}

pub(super) async fn extend(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    claims: &[Claim],
    invisible: Duration,
) -> Result<Vec<i64>, sqlx::Error> {
    let sql = "UPDATE background_jobs SET visible_at = ?2
        FROM json_each(?1) AS claims
        WHERE background_jobs.id = claims.value ->> 0 AND read_count = claims.value ->> 1
            AND +queue = ?3
        RETURNING background_jobs.id";
    let query = sqlx::query_scalar(sql).bind(claims_json(claims.iter()));
    query
        .bind(later(invisible))
        .bind(queue.as_str())
        .fetch_all(connection)
        .await
}

pub(super) async fn settle(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    settled: &[Settled],
) -> Result<Vec<i64>, sqlx::Error> {
    let done = settled
        .iter()
        .filter(|settled| matches!(settled.end, Settlement::Delete));
    let claims = claims_json(done.map(|settled| &settled.claim));
    let mut ids: Vec<i64> = sqlx::query_scalar(
        "DELETE FROM background_jobs
         WHERE +queue = ?2 AND id IN (SELECT value ->> 0 FROM json_each(?1))
             AND (id, read_count) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))
         RETURNING id",
    )
    .bind(claims)
    .bind(queue.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for Settled { claim, end } in settled {
        let (sql, headers, time) = match end {
            Settlement::Delete => continue,
            Settlement::Return(delay, headers) => (
                "UPDATE background_jobs SET headers = ?4, visible_at = ?5
                 WHERE queue = ?1 AND id = ?2 AND read_count = ?3",
                headers,
                later(*delay),
            ),
            Settlement::Archive(headers) => (
                "INSERT INTO background_jobs_archive
                 SELECT id, queue, visible_at, read_count, enqueued_at, last_read_at, ?5, message, ?4
                 FROM background_jobs WHERE queue = ?1 AND id = ?2 AND read_count = ?3",
                headers,
                now(),
            ),
        };
        let changed = sqlx::query(sql)
            .bind(queue.as_str())
            .bind(claim.id)
            .bind(claim.read_count)
            .bind(Value::Object(headers.clone()).to_string())
            .bind(time)
            .execute(&mut *connection)
            .await?;
        if changed.rows_affected() == 0 {
            continue;
        }
        if matches!(end, Settlement::Archive(_)) {
            let sql = "DELETE FROM background_jobs WHERE queue = ?1 AND id = ?2";
            change(connection, sql, queue, claim.id, None).await?;
        }
        ids.push(claim.id);
    }
    Ok(ids)
}
