//! Connections of the engine that are clean or closed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::{Error, bounds::within};

/// After this time without a call, a connection is asked before it is used. The network may have
/// forgotten it without a word.
const SILENCE: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(1);

/// Connections that are not in use. There are as many as there were calls at the same time.
#[derive(Debug)]
pub(super) struct Sessions {
    options: PgConnectOptions,
    bound: Duration,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

impl Sessions {
    pub(super) fn new(options: PgConnectOptions, bound: Duration) -> Self {
        Self {
            options,
            bound,
            idle: Mutex::default(),
        }
    }

    /// Returns a connection for one call.
    pub(super) async fn get(self: &Arc<Self>) -> Result<Session, Error> {
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some((connection, since)) = &mut idle {
            let silent = since.elapsed() > SILENCE;
            if silent && within("ping", ANSWER, connection.ping()).await.is_err() {
                idle = None;
            }
        }
        let connection = match idle {
            Some((connection, _)) => connection,
            None => within("connect", self.bound, self.connect()).await?,
        };
        Ok(Session {
            connection,
            home: Arc::clone(self),
            bound: self.bound,
        })
    }

    /// The settings are those that the statements need, whatever the database's defaults are. The
    /// server gives up a statement for which nobody waits any more.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let settings = format!(
            "SET default_transaction_isolation = 'read committed';
             SET statement_timeout = {}",
            self.bound.as_millis().max(1)
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(settings))
            .execute(&mut connection)
            .await?;
        Ok(connection)
    }
}

/// A connection for one call. It is closed unless [`done`](Self::done) is called: after an error
/// its server may be read-only by now, or the statement may still be under way.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: PgConnection,
    pub(super) bound: Duration,
    home: Arc<Sessions>,
}

impl Session {
    /// Keeps the connection for the next call.
    pub(super) fn done(self) {
        let mut idle = self
            .home
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.push((self.connection, Instant::now()));
    }
}
