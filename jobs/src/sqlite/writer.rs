//! The one connection that writes. All commands that wait share one transaction.

use std::sync::Arc;

use sqlx::SqliteConnection;
use tokio::sync::mpsc;

use super::{
    commands::{Action, Command, Outcome},
    file::{File, Writable},
    perform::perform,
    sleepers::Sleepers,
};
use crate::{
    Error,
    bounds::{bounded, within},
};

/// So many commands at most share a transaction.
const MAX_BATCH: usize = 1_000;

pub(super) struct Writer {
    file: File,
    open: Option<Writable>,
    sleepers: Arc<Sleepers>,
}

impl Writer {
    pub(super) fn new(file: File, open: Writable, sleepers: Arc<Sleepers>) -> Self {
        Self {
            file,
            open: Some(open),
            sleepers,
        }
    }

    /// Runs until the engine is dropped.
    pub(super) async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Command>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
            batch.retain(|command| !command.is_abandoned());
            if batch.is_empty() {
                continue;
            }
            let wakes = batch.iter().any(|command| command.action.wakes());
            match self.write(&batch).await {
                Ok(outcomes) => {
                    for (command, outcome) in batch.drain(..).zip(outcomes) {
                        command.answer(Ok(outcome));
                    }
                }
                Err(error) => {
                    for command in batch.drain(..) {
                        command.answer(Err(error.clone()));
                    }
                }
            }
            if wakes {
                self.sleepers.wake();
            }
        }
    }

    /// Writes all commands, or none. After an error the connection is closed: it may be inside the
    /// transaction, or hold a file that is gone.
    async fn write(&mut self, batch: &[Command]) -> Result<Vec<Outcome>, Error> {
        let bound = self.file.bound;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => bounded("open", bound, self.file.reopen()).await?,
        };
        if !open.is_current(&self.file) {
            return Err(self.file.replaced());
        }
        let outcomes = within("write", bound, transaction(&mut open, batch)).await?;
        self.open = Some(open);
        Ok(outcomes)
    }
}

/// One statement is a transaction by itself: for a push alone, this saves two of three round trips
/// to the thread of the connection.
async fn transaction(open: &mut Writable, batch: &[Command]) -> Result<Vec<Outcome>, sqlx::Error> {
    let is_promise = batch.iter().any(|command| command.action.is_promise());
    open.sync(is_promise).await?;
    let connection: &mut SqliteConnection = &mut open.connection;
    if is_one_statement(batch) {
        return perform(connection, batch).await;
    }
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await?;
    let outcomes = perform(connection, batch).await?;
    sqlx::query("COMMIT").execute(&mut *connection).await?;
    Ok(outcomes)
}

fn is_one_statement(batch: &[Command]) -> bool {
    let sends = batch
        .iter()
        .all(|command| matches!(command.action, Action::Send { .. }));
    sends || matches!(batch, [command] if command.action.is_one_statement())
}
