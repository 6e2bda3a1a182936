//! Connections of the engine that are clean or closed.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{
    Error,
    bounds::{for_connections, within},
};

/// After this time without a call, a connection is asked before it is used. The network may have
/// forgotten it without a word.
const SILENCE: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(1);

/// Connections that are not in use. There are as many as there were calls at the same time.
#[derive(Debug)]
pub(super) struct Sessions {
    options: PgConnectOptions,
    bound: Duration,
    commit: Commit,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

/// Whether a statement waits until it is on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// As the database has it: yes, unless somebody changed that.
    Durable,
    /// No. After a crash of the server, reads, extensions and deletes of the last second can be gone.
    /// This leads to one more run.
    Soon,
}

impl Sessions {
    pub(super) fn new(options: PgConnectOptions, bound: Duration, commit: Commit) -> Self {
        Self {
            options,
            bound,
            commit,
            idle: Mutex::default(),
        }
    }

    /// Runs a call, for at most the bound. The connection is kept only after a success: after an error
    /// its server may be read-only by now, or the statement may still be under way.
    pub(super) async fn run<T>(
        &self,
        during: &'static str,
        call: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let mut connection = self.get().await?;
        let answer = within(during, self.bound, call(&mut connection)).await?;
        self.idle().push((connection, Instant::now()));
        Ok(answer)
    }

    async fn get(&self) -> Result<PgConnection, Error> {
        let idle = self.idle().pop();
        if let Some((mut connection, since)) = idle {
            let silent = since.elapsed() > SILENCE;
            if !silent || within("ping", ANSWER, connection.ping()).await.is_ok() {
                return Ok(connection);
            }
        }
        within("connect", self.bound, self.connect()).await
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings are those that the statements need, whatever the database's defaults are. The
    /// server gives up a statement for which nobody waits any more.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let mut settings = format!(
            "SET default_transaction_isolation = 'read committed';
             SET statement_timeout = {};",
            for_connections(self.bound).as_millis().max(1)
        );
        if self.commit == Commit::Soon {
            settings += "SET synchronous_commit = off;";
        }
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings))
            .execute(&mut connection)
            .await?;
        Ok(connection)
    }
}
