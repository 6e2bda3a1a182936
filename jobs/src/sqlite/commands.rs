//! What the writer can be asked to do, and the SQL for it.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use tokio::sync::oneshot;

use super::{later, millis, now, time};
use crate::{
    Error,
    engine::{Settled, Settlement},
    message::{Claim, Headers, Message, NewMessage, QueueName, Visible},
};

type Answer<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Debug)]
pub(super) enum Command {
    Create {
        queue: QueueName,
        reply: Answer<()>,
    },
    Send {
        queue: QueueName,
        message: NewMessage,
        reply: Answer<i64>,
    },
    Release {
        queue: QueueName,
        id: i64,
        reply: Answer<bool>,
    },
    Discard {
        queue: QueueName,
        id: i64,
        reply: Answer<bool>,
    },
    Read {
        queue: QueueName,
        max: usize,
        invisible: Duration,
        reply: Answer<Vec<Message>>,
    },
    Extend {
        queue: QueueName,
        claims: Vec<Claim>,
        invisible: Duration,
        reply: Answer<Vec<i64>>,
    },
    Settle {
        queue: QueueName,
        settled: Vec<Settled>,
        reply: Answer<Vec<i64>>,
    },
    Restore {
        queue: QueueName,
        id: i64,
        headers: Headers,
        reply: Answer<Option<i64>>,
    },
    Hurry {
        queue: QueueName,
        id: i64,
        reply: Answer<bool>,
    },
    Remove {
        queue: QueueName,
        id: i64,
        reply: Answer<bool>,
    },
    Purge {
        queue: QueueName,
        age: Duration,
        reply: Answer<u64>,
    },
}

/// What a command gave, before the transaction is committed.
pub(super) enum Outcome {
    Nothing,
    Id(i64),
    Ids(Vec<i64>),
    Messages(Vec<Message>),
    Changed(bool),
    Restored(Option<i64>),
    Count(u64),
}

impl Command {
    /// Whether nobody waits for the reply any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Create { reply, .. } => reply.is_closed(),
            Self::Send { reply, .. } => reply.is_closed(),
            Self::Release { reply, .. }
            | Self::Discard { reply, .. }
            | Self::Hurry { reply, .. }
            | Self::Remove { reply, .. } => reply.is_closed(),
            Self::Read { reply, .. } => reply.is_closed(),
            Self::Extend { reply, .. } | Self::Settle { reply, .. } => reply.is_closed(),
            Self::Restore { reply, .. } => reply.is_closed(),
            Self::Purge { reply, .. } => reply.is_closed(),
        }
    }

    /// Whether workers should look for messages afterwards.
    pub(super) fn wakes(&self) -> bool {
        match self {
            Self::Send { .. }
            | Self::Release { .. }
            | Self::Restore { .. }
            | Self::Hurry { .. } => true,
            // A message that was returned may be the next one.
            Self::Settle { settled, .. } => settled
                .iter()
                .any(|settled| matches!(settled.end, Settlement::Return(..))),
            _ => false,
        }
    }

    /// Whether it is a promise that must survive a power cut. A read, an extension or a delete that
    /// gets lost then leads to one more run.
    pub(super) fn is_promise(&self) -> bool {
        !matches!(
            self,
            Self::Read { .. } | Self::Extend { .. } | Self::Settle { .. }
        )
    }

    /// Whether the command alone needs no transaction around it.
    pub(super) fn is_one_statement(&self) -> bool {
        match self {
            Self::Settle { settled, .. } => settled
                .iter()
                .all(|settled| matches!(settled.end, Settlement::Delete)),
            Self::Remove { .. } | Self::Restore { .. } => false,
            _ => true,
        }
    }

    pub(super) fn fail(self, error: &Error) {
        let error = error.clone();
        match self {
            Self::Create { reply, .. } => drop(reply.send(Err(error))),
            Self::Send { reply, .. } => drop(reply.send(Err(error))),
            Self::Release { reply, .. }
            | Self::Discard { reply, .. }
            | Self::Hurry { reply, .. }
            | Self::Remove { reply, .. } => drop(reply.send(Err(error))),
            Self::Read { reply, .. } => drop(reply.send(Err(error))),
            Self::Extend { reply, .. } | Self::Settle { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::Restore { reply, .. } => drop(reply.send(Err(error))),
            Self::Purge { reply, .. } => drop(reply.send(Err(error))),
        }
    }

    /// Tells the caller what the command gave, after the commit.
    pub(super) fn succeed(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Create { reply, .. }, Outcome::Nothing) => drop(reply.send(Ok(()))),
            (Self::Send { reply, .. }, Outcome::Id(id)) => drop(reply.send(Ok(id))),
            (
                Self::Release { reply, .. }
                | Self::Discard { reply, .. }
                | Self::Hurry { reply, .. }
                | Self::Remove { reply, .. },
                Outcome::Changed(changed),
            ) => drop(reply.send(Ok(changed))),
            (Self::Read { reply, .. }, Outcome::Messages(messages)) => {
                drop(reply.send(Ok(messages)));
            }
            (Self::Extend { reply, .. } | Self::Settle { reply, .. }, Outcome::Ids(ids)) => {
                drop(reply.send(Ok(ids)));
            }
            (Self::Restore { reply, .. }, Outcome::Restored(id)) => drop(reply.send(Ok(id))),
            (Self::Purge { reply, .. }, Outcome::Count(count)) => drop(reply.send(Ok(count))),
            (command, _) => command.fail(&Error::Stopped),
        }
    }
}

/// Performs all commands inside an open transaction. The outcomes are in the order of `batch`.
pub(super) async fn perform(
    connection: &mut SqliteConnection,
    batch: &[Command],
) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut sent = send_all(connection, batch).await?.into_iter();
    let mut outcomes = Vec::with_capacity(batch.len());
    for command in batch {
        let outcome = match command {
            // All sends of the batch were one statement, in this order.
            Command::Send { .. } => match sent.next() {
                Some(id) => Outcome::Id(id),
                None => return Err(sqlx::Error::RowNotFound),
            },
            other => perform_one(connection, other).await?,
        };
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

async fn perform_one(
    connection: &mut SqliteConnection,
    command: &Command,
) -> Result<Outcome, sqlx::Error> {
    Ok(match command {
        Command::Send { queue, message, .. } => {
            Outcome::Id(send_one(connection, queue, message).await?)
        }
        Command::Create { queue, .. } => {
            let sql = "INSERT INTO background_queues (name) VALUES (?) ON CONFLICT DO NOTHING";
            sqlx::query(sql)
                .bind(queue.as_str())
                .execute(connection)
                .await?;
            Outcome::Nothing
        }
        Command::Release { queue, id, .. } => {
            let sql = "UPDATE background_jobs SET visible_at = ?3
                WHERE queue = ?1 AND id = ?2 AND read_count = 0 AND visible_at > ?3";
            Outcome::Changed(change(connection, sql, queue, *id, Some(now())).await?)
        }
        Command::Discard { queue, id, .. } => {
            let sql = "DELETE FROM background_jobs WHERE queue = ?1 AND id = ?2 AND read_count = 0";
            Outcome::Changed(change(connection, sql, queue, *id, None).await?)
        }
        Command::Hurry { queue, id, .. } => {
            let sql = "UPDATE background_jobs SET visible_at = ?3
                WHERE queue = ?1 AND id = ?2 AND visible_at > ?3";
            Outcome::Changed(change(connection, sql, queue, *id, Some(now())).await?)
        }
        Command::Remove { queue, id, .. } => {
            let queued = "DELETE FROM background_jobs WHERE queue = ?1 AND id = ?2";
            let archived = "DELETE FROM background_jobs_archive WHERE queue = ?1 AND id = ?2";
            let was_queued = change(connection, queued, queue, *id, None).await?;
            let was_archived = change(connection, archived, queue, *id, None).await?;
            Outcome::Changed(was_queued || was_archived)
        }
        Command::Read {
            queue,
            max,
            invisible,
            ..
        } => Outcome::Messages(read(connection, queue, *max, *invisible).await?),
        Command::Extend {
            queue,
            claims,
            invisible,
            ..
        } => Outcome::Ids(extend(connection, queue, claims, *invisible).await?),
        Command::Settle { queue, settled, .. } => {
            Outcome::Ids(settle(connection, queue, settled).await?)
        }
        Command::Restore {
            queue, id, headers, ..
        } => Outcome::Restored(restore(connection, queue, *id, headers).await?),
        Command::Purge { queue, age, .. } => Outcome::Count(purge(connection, queue, *age).await?),
    })
}

const INSERT: &str =
    "INSERT INTO background_jobs (queue, visible_at, enqueued_at, message, headers)";

/// Sends a message over a connection of the caller.
pub(super) async fn send_one(
    connection: &mut SqliteConnection,
    queue: &QueueName,
    message: &NewMessage,
) -> Result<i64, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("{INSERT} VALUES (?, ?, ?, ?, ?) RETURNING id"));
    sqlx::query_scalar(sql)
        .bind(queue.as_str())
        .bind(visible_at(message))
        .bind(now())
        .bind(&message.body)
        .bind(message.headers_json())
        .fetch_one(connection)
        .await
}

/// Sends all messages of a batch in one statement. Returns their ids in the order of the batch.
async fn send_all(
    connection: &mut SqliteConnection,
    batch: &[Command],
) -> Result<Vec<i64>, sqlx::Error> {
    let rows: Vec<Value> = batch
        .iter()
        .filter_map(|command| match command {
            Command::Send { queue, message, .. } => Some(json!([
                queue.as_str(),
                visible_at(message),
                message.body,
                message.headers_json()
            ])),
            _ => None,
        })
        .collect();
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

async fn change(
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

async fn read(
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
    let rows = sqlx::query(sql)
        .bind(queue.as_str())
        .bind(now())
        .bind(later(invisible))
        .bind(i64::try_from(max).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    let mut messages = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    messages.sort_unstable_by_key(|message| message.claim.id);
    Ok(messages)
}

fn message(row: &SqliteRow) -> Result<Message, sqlx::Error> {
    let claim = Claim {
        id: row.try_get(0)?,
        read_count: row.try_get(1)?,
    };
    let headers: Option<String> = row.try_get(4)?;
    Ok(Message::new(
        claim,
        time(row.try_get(2)?),
        row.try_get(3)?,
        headers.as_deref(),
    ))
}

/// Claims as a JSON array for `json_each`. The `+queue` in statements with claims keeps SQLite from
/// reading the whole queue by its index, as the ids are the better way.
fn claims_json<'a>(claims: impl Iterator<Item = &'a Claim>) -> String {
    let claims = claims.map(|claim| json!([claim.id, claim.read_count]));
    claims.collect::<Value>().to_string()
}

async fn extend(
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

async fn settle(
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

async fn restore(
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

async fn purge(
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
