//! A job and other rows in one transaction, and a request that is repeated.
//!
//! `cargo run -p tower-background-jobs --example transaction --features sqlite`

use serde::{Deserialize, Serialize};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tower_background_jobs::{BoxError, JobQueue, SqliteEngine};

#[derive(Serialize, Deserialize)]
struct Mail {
    order: String,
}

/// The client chooses the key, and sends the same key when it repeats the request. Returns whether
/// the order is new.
async fn order(pool: &SqlitePool, mails: &JobQueue<Mail>, key: &str) -> Result<bool, BoxError> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let insert = sqlx::query("INSERT INTO orders (key) VALUES (?) ON CONFLICT DO NOTHING");
    let inserted = insert.bind(key).execute(&mut *transaction).await?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    mails
        .push_in(
            &mut transaction,
            &Mail {
                order: key.to_owned(),
            },
        )
        .await?;
    transaction.commit().await?;
    Ok(true)
}

/// A server drops a handler when its client leaves. A task of its own goes on to its end, so no
/// connection comes back to the pool inside a transaction.
async fn handler(pool: SqlitePool, mails: JobQueue<Mail>, key: String) -> Result<bool, BoxError> {
    tokio::spawn(async move { order(&pool, &mails, &key).await }).await?
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shop.db");
    let mails: JobQueue<Mail> = JobQueue::open(SqliteEngine::open(&path).await?, "mails").await?;
    let options = SqliteConnectOptions::new().filename(&path);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await?;
    sqlx::query("CREATE TABLE orders (key TEXT PRIMARY KEY)")
        .execute(&pool)
        .await?;

    assert!(handler(pool.clone(), mails.clone(), "order-1".to_owned()).await?);
    assert!(!handler(pool.clone(), mails.clone(), "order-1".to_owned()).await?);
    assert_eq!(mails.depth().await?.ready, 1);
    println!("one order, one mail");
    Ok(())
}
