//! The statements of those who push, and of operators.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use crate::{
    message::{Headers, NewMessage, Visible},
    queue_name::QueueName,
    time::{later, millis, now},
};

const INSERT: &str =
    "INSERT INTO background_jobs (queue, visible_at, enqueued_at, message, headers)";

/// Sends one message.
pub(super) async fn send_one(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    message: &NewMessage,
) -> Result<i64, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("{INSERT} VALUES (?, ?, ?, ?, ?) RETURNING id"));
    // `fetch_one` would return after the row and before the commit, whose error it ignores.
    let ids: Vec<i64> = sqlx::query_scalar(sql)
        .bind(queue.as_str())
        .bind(visible_at(message))
        .bind(now())
        .bind(&message.body)
        .bind(message.headers_json())
        .fetch_all(connection)
        .await?;
    ids.first().copied().ok_or(sqlx::Error::RowNotFound)
}

/// Sends messages in one statement. Returns their ids in the same order.
pub(super) async fn send_all(
    connection: &mut SqliteConnection,
    messages: impl Iterator<Item = (&QueueName, &NewMessage)>,
) -> Result<Vec<i64>, sqlx::Error> {
    let row = |(queue, message): (&QueueName, &NewMessage)| {
        let headers = message.headers_json();
        json!([queue.as_str(), visible_at(message), message.body, headers])
    };
    let rows: Vec<Value> = messages.map(row).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "{INSERT} SELECT value ->> 0, value ->> 1, ?2, value ->> 2, value ->> 3
         FROM json_each(?1) ORDER BY key RETURNING id"
    );
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
    let mut ids: Vec<i64> = query
        .bind(Value::from(rows).to_string())
        .bind(now())
        .fetch_all(connection)
        .await?;
    // Ids only grow, and the rows were inserted in the order of the keys.
    ids.sort_unstable();
    Ok(ids)
}

fn visible_at(message: &NewMessage) -> i64 {
    match message.visible {
        Visible::In(delay) => later(delay),
        Visible::At(time) => millis(time),
    }
}

pub(super) async fn change(
    connection: &mut SqliteConnection,
    sql: &'static str,
    queue: &QueueName,
    id: i64,
    time: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let mut query = sqlx::query(sql).bind(queue.as_str()).bind(id);
    if let Some(time) = time {
        query = query.bind(time);
    }
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

pub(super) async fn restore(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    id: i64,
    headers: &Headers,
) -> Result<Option<i64>, sqlx::Error> {
    let sql = format!(
        "{INSERT} SELECT queue, ?3, enqueued_at, message, ?4
         FROM background_jobs_archive WHERE queue = ?1 AND id = ?2 RETURNING id"
    );
    let restored: Option<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(queue.as_str())
        .bind(id)
        .bind(now())
        .bind(Value::Object(headers.clone()).to_string())
        .fetch_optional(&mut *connection)
        .await?;
    let sql = "DELETE FROM background_jobs_archive WHERE queue = ?1 AND id = ?2";
    change(connection, sql, queue, id, None).await?;
    Ok(restored)
}

pub(super) async fn purge(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    age: Duration,
) -> Result<u64, sqlx::Error> {
    let before = now().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let sql = "DELETE FROM background_jobs_archive WHERE id IN (
        SELECT id FROM background_jobs_archive WHERE queue = ? AND archived_at < ? LIMIT 10000
    )";
    let purged = sqlx::query(sql)
        .bind(queue.as_str())
        .bind(before)
        .execute(connection)
        .await?;
    Ok(purged.rows_affected())
}
