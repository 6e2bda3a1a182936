//! Queues of others in a web service with axum and tower-background.
//!
//! Each module shows one queue, and can be read and copied alone. The guide is
//! `jobs/docs/other-queues.md`. The tests run each module against the real engine.
//!
//! What all modules share is in this file: the job, the end of a handler, and the mail server.

pub mod apalis;
pub mod graphile;
pub mod idempotency;
pub mod jetstream;
pub mod outbox;

use std::{net::SocketAddr, time::Duration};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, PgTransaction, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_background::BoxError;

/// The job of all modules.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mail {
    /// The address that the mail goes to.
    pub to: String,
}

/// Runs the work of a handler to its end, also if the client leaves and the server drops the
/// handler. A transaction of sqlx 0.9.0 that is dropped while it begins can spoil its connection.
pub async fn to_the_end(
    work: impl Future<Output = Result<(), BoxError>> + Send + 'static,
) -> StatusCode {
    // A database that does not answer must not hold the client. The work may still succeed later.
    let ended = tokio::time::timeout(Duration::from_secs(10), tokio::spawn(work));
    match async { ended.await?? }.await {
        Ok(()) => StatusCode::ACCEPTED,
        Err(error) => {
            tracing::error!(%error, "the push failed");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// A pool that gives up after 5 s without a database. sqlx waits for 30 s by default.
///
/// The database must have `synchronous_commit = on`, which is its default.
pub async fn connect(url: &str) -> Result<PgPool, BoxError> {
    let options = PgPoolOptions::new().acquire_timeout(Duration::from_secs(5));
    Ok(options.connect(url).await?)
}

/// Writes the row that a job belongs to.
pub async fn add_user(transaction: &mut PgTransaction<'_>, address: &str) -> Result<(), BoxError> {
    let insert = sqlx::query("INSERT INTO users (address) VALUES ($1)");
    insert.bind(address).execute(&mut **transaction).await?;
    Ok(())
}

/// Creates the table for [`add_user`].
pub async fn create_users(pool: &PgPool) -> Result<(), BoxError> {
    let create = "CREATE TABLE IF NOT EXISTS users (address TEXT NOT NULL)";
    sqlx::query(create).execute(pool).await?;
    Ok(())
}

/// The server that sends mails. It answers each line with `ok`, or with something else.
#[derive(Debug, Clone, Copy)]
pub struct MailServer(pub SocketAddr);

impl MailServer {
    /// Sends a mail. A job can run twice, so a mail can also be sent twice.
    ///
    /// # Panics
    ///
    /// If the answer is no text. The tests use this to see what workers do with a panic.
    pub async fn send(self, mail: &Mail) -> Result<(), BoxError> {
        let call = async {
            let mut server = TcpStream::connect(self.0).await?;
            let line = format!("{}\n", mail.to);
            server.write_all(line.as_bytes()).await?;
            let mut answer = [0; 2];
            server.read_exact(&mut answer).await?;
            let answer = std::str::from_utf8(&answer).expect("the answer is text");
            if answer != "ok" {
                return Err("the mail server refused the mail".into());
            }
            Ok(())
        };
        // Workers extend the time of a job that runs. Without a limit, a call could last for ever.
        tokio::time::timeout(Duration::from_mins(1), call).await?
    }
}
