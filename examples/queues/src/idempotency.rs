//! Requests that are repeated: a unique row and the push of tower-background-jobs in one
//! transaction.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use sqlx::PgPool;
use tower_background::BoxError;
use tower_background_jobs::{JobQueue, PgmqEngine, RunningWorker};

use crate::{Mail, MailServer, to_the_end};

/// What handlers need.
#[derive(Clone)]
pub struct Shop {
    pool: PgPool,
    mails: JobQueue<Mail>,
}

/// Creates the tables, if there are none.
pub async fn open(pool: PgPool, url: &str) -> Result<Shop, BoxError> {
    let create = "CREATE TABLE IF NOT EXISTS orders (key TEXT PRIMARY KEY)";
    sqlx::query(create).execute(&pool).await?;
    let engine = PgmqEngine::connect(url)?;
    engine.install().await?;
    let mails = JobQueue::open(engine, "mails").await?;
    Ok(Shop { pool, mails })
}

/// Stores an order and its mail. Returns whether the key is new.
pub async fn store(shop: &Shop, key: &str, mail: &Mail) -> Result<bool, BoxError> {
    let mut transaction = shop.pool.begin().await?;
    // A second request with the same key waits here until the first one commits or rolls back.
    let insert = sqlx::query("INSERT INTO orders (key) VALUES ($1) ON CONFLICT DO NOTHING");
    let inserted = insert.bind(key).execute(&mut *transaction).await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    shop.mails.push_in(&mut transaction, mail).await?;
    transaction.commit().await?;
    Ok(true)
}

/// The client sends the same key when it repeats a request. It gets the same answer again.
pub async fn order(State(shop): State<Shop>, headers: HeaderMap, address: String) -> StatusCode {
    let key = headers.get("idempotency-key").map(|key| key.to_str());
    let Some(Ok(key)) = key else {
        return StatusCode::BAD_REQUEST;
    };
    let key = key.to_owned();
    to_the_end(async move {
        store(&shop, &key, &Mail { to: address }).await?;
        Ok(())
    })
    .await
}

/// Starts a worker. A worker that was silent for `dead_after` loses its jobs to another one.
#[must_use]
pub fn work(shop: &Shop, server: MailServer, dead_after: Duration) -> RunningWorker {
    let send = move |mail: Mail, _| async move { Ok(server.send(&mail).await?) };
    shop.mails.worker(send).invisible(dead_after).start()
}
