//! Performs what the writer was asked to do.

use sqlx::SqliteConnection;

use super::{
    claims,
    commands::{Action, Command, Outcome},
    statements,
};
use crate::time::now;

/// Performs all commands inside an open transaction. The outcomes are in the order of `batch`.
pub(super) async fn perform(
    connection: &mut SqliteConnection,
    batch: &[Command],
) -> Result<Vec<Outcome>, sqlx::Error> {
    if let [
        Command {
            action: Action::Send { queue, message },
            ..
        },
    ] = batch
    {
        // The plain statement is faster than the one for many messages.
        let id = statements::send_one(connection, queue, message).await?;
        return Ok(vec![Outcome::Id(Some(id))]);
    }
    let messages = batch.iter().filter_map(|command| match &command.action {
        Action::Send { queue, message } => Some((queue, message)),
        _ => None,
    });
    // All sends of the batch are one statement.
    let mut sent = statements::send_all(connection, messages)
        .await?
        .into_iter();
    let mut outcomes = Vec::with_capacity(batch.len());
    for command in batch {
        let outcome = match &command.action {
            Action::Send { .. } => Outcome::Id(sent.next()),
            action => perform_one(connection, action).await?,
        };
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

async fn perform_one(
    connection: &mut SqliteConnection,
    action: &Action,
) -> Result<Outcome, sqlx::Error> {
    Ok(match action {
        // See `perform`.
        Action::Send { .. } => Outcome::Nothing,
        Action::Create { queue } => {
            let sql = "INSERT INTO background_queues (name) VALUES (?) ON CONFLICT DO NOTHING";
            sqlx::query(sql)
                .bind(queue.as_str())
                .execute(connection)
                .await?;
            Outcome::Nothing
        }
        Action::Release { queue, id } => {
            let sql = "UPDATE background_jobs SET visible_at = ?3
                WHERE queue = ?1 AND id = ?2 AND read_count = 0 AND visible_at > ?3";
            Outcome::Changed(statements::change(connection, sql, queue, *id, Some(now())).await?)
        }
        Action::Discard { queue, id } => {
            let sql = "DELETE FROM background_jobs WHERE queue = ?1 AND id = ?2 AND read_count = 0";
            Outcome::Changed(statements::change(connection, sql, queue, *id, None).await?)
        }
        Action::Hurry { queue, id } => {
            let sql = "UPDATE background_jobs SET visible_at = ?3
                WHERE queue = ?1 AND id = ?2 AND visible_at > ?3";
            Outcome::Changed(statements::change(connection, sql, queue, *id, Some(now())).await?)
        }
        Action::Remove { queue, id } => {
            let queued = "DELETE FROM background_jobs WHERE queue = ?1 AND id = ?2";
            let archived = "DELETE FROM background_jobs_archive WHERE queue = ?1 AND id = ?2";
            let was_queued = statements::change(connection, queued, queue, *id, None).await?;
            let was_archived = statements::change(connection, archived, queue, *id, None).await?;
            Outcome::Changed(was_queued || was_archived)
        }
        Action::Read {
            queue,
            max,
            invisible,
        } => Outcome::Messages(claims::read(connection, queue, *max, *invisible).await?),
        Action::Extend {
            queue,
            claims,
            invisible,
        } => Outcome::Ids(claims::extend(connection, queue, claims, *invisible).await?),
        Action::Settle { queue, settled } => {
            Outcome::Ids(claims::settle(connection, queue, settled).await?)
        }
        Action::Restore { queue, id, headers } => {
            Outcome::Id(statements::restore(connection, queue, *id, headers).await?)
        }
        Action::Purge { queue, age } => {
            Outcome::Count(statements::purge(connection, queue, *age).await?)
        }
    })
}
