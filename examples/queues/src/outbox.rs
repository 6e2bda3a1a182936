//! A transactional outbox: a row beside the rows of the user, and a task that relays it to a queue
//! which knows no transactions, here to JetStream.

use std::time::Duration;

use async_nats::jetstream::Context;
use axum::{extract::State, http::StatusCode};
use sqlx::{PgPool, PgTransaction};
use tower_background::{BoxError, Refused, Supervisor, Task, TaskHandle};

use crate::{Mail, add_user, jetstream, to_the_end};

/// Creates the table.
pub async fn setup(pool: &PgPool) -> Result<(), BoxError> {
    let create = "CREATE TABLE IF NOT EXISTS outbox
        (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail TEXT NOT NULL)";
    sqlx::query(create).execute(pool).await?;
    Ok(())
}

/// Writes a mail into the outbox. The mail exists if the transaction commits.
pub async fn push_in(transaction: &mut PgTransaction<'_>, mail: &Mail) -> Result<(), BoxError> {
    let insert = sqlx::query("INSERT INTO outbox (mail) VALUES ($1)");
    let insert = insert.bind(serde_json::to_string(mail)?);
    insert.execute(&mut **transaction).await?;
    Ok(())
}

/// The user and the mail are in the database before the client has its answer.
pub async fn sign_up(State(pool): State<PgPool>, address: String) -> StatusCode {
    to_the_end(async move {
        let mut transaction = pool.begin().await?;
        add_user(&mut transaction, &address).await?;
        push_in(&mut transaction, &Mail { to: address }).await?;
        Ok(transaction.commit().await?)
    })
    .await
}

/// Starts the relay. The supervisor lists it, and waits for it at the shutdown.
pub fn start(supervisor: &Supervisor, pool: PgPool, nats: Context) -> Result<TaskHandle, Refused> {
    let stopping = supervisor.stopping();
    let relay = async move {
        let mut stopping = std::pin::pin!(stopping);
        loop {
            if let Err(error) = relay(&pool, &nats).await {
                tracing::warn!(%error, "the outbox is relayed later");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
                () = &mut stopping => return,
            }
        }
    };
    supervisor.spawn(Task::new(relay).named("outbox"))
}

/// Relays up to 100 rows. If the process dies before the commit, the rows are relayed again, and
/// JetStream knows their ids for its `duplicate_window`.
pub async fn relay(pool: &PgPool, nats: &Context) -> Result<(), BoxError> {
    let mut transaction = pool.begin().await?;
    // Another process that relays takes other rows.
    let mut rows: Vec<(i64, String)> = sqlx::query_as(
        "DELETE FROM outbox WHERE id IN
            (SELECT id FROM outbox ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)
        RETURNING id, mail",
    )
    .fetch_all(&mut *transaction)
    .await?;
    rows.sort_unstable();
    for (id, mail) in &rows {
        let mail: Mail = serde_json::from_str(mail)?;
        jetstream::push(nats, &format!("outbox-{id}"), &mail).await?;
    }
    transaction.commit().await?;
    Ok(())
}
