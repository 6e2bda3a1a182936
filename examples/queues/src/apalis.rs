//! apalis with its backend for PostgreSQL: jobs are rows.

use std::time::Duration;

use apalis::prelude::{
    Attempt, BackendExt, BoxDynError, Data, StreamStrategy, TaskBuilder, TaskId, WorkerBuilder,
    WorkerBuilderExt, WorkerContext,
};
use apalis_postgres::{Config, PostgresStorage, queries::push_tasks};
use axum::{extract::State, http::StatusCode};
use futures_util::stream;
use serde_json::Value;
use sqlx::{PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use crate::{Mail, MailServer, add_user, to_the_end};

/// The default name is that of the Rust type, which changes when the type moves.
const QUEUE: &str = "mails";
const ATTEMPTS: u16 = 25;

/// Creates the tables of apalis. Call it from one process at a time.
pub async fn setup(pool: &PgPool) -> Result<(), BoxError> {
    Ok(PostgresStorage::setup(pool).await?)
}

/// Pushes a mail in a transaction. The job exists if the transaction commits.
pub async fn push_in(transaction: &mut PgTransaction<'_>, mail: &Mail) -> Result<(), BoxError> {
    let task = TaskBuilder::new(serde_json::to_vec(mail)?).max_attempts(ATTEMPTS.into());
    push_tasks(&mut **transaction, QUEUE, vec![task.build()]).await?;
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

async fn send(
    job: Value,
    id: TaskId,
    attempt: Attempt,
    server: Data<MailServer>,
    pool: Data<PgPool>,
) -> Result<(), BoxDynError> {
    let attempt = attempt.current();
    // The attempts of a job whose workers died are counted, but nothing ends it.
    if attempt > ATTEMPTS.into() {
        return Err("the workers of this job died too often".into());
    }
    // In a task of its own a panic is an error: otherwise the job would stay `Running`. And a job
    // that blocks its thread does not stop the heartbeats.
    let sent = tokio::spawn(async move {
        let mail: Mail = serde_json::from_value(job)?;
        server.send(&mail).await
    });
    let sent = sent.await.map_err(BoxDynError::from).flatten();
    if sent.is_err() {
        // apalis itself tries a failed job again at the next poll, until it has no attempts left.
        let later =
            "UPDATE apalis.jobs SET run_at = now() + make_interval(secs => $2) WHERE id = $1";
        let seconds = f64::from(1 << attempt.min(12));
        let later = sqlx::query(later).bind(id.to_string()).bind(seconds);
        later.execute(&*pool).await?;
    }
    sent
}

/// Runs a worker until `stop`. A worker ends at its first database error, so this starts it again.
pub async fn work(pool: PgPool, server: MailServer, dead_after: Duration, stop: CancellationToken) {
    while let Err(error) = run(&pool, server, dead_after, &stop).await {
        tracing::warn!(%error, "the worker starts again");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn run(
    pool: &PgPool,
    server: MailServer,
    dead_after: Duration,
    stop: &CancellationToken,
) -> Result<(), BoxError> {
    let config = Config::default()
        .queue(QUEUE)
        .heartbeat_interval(dead_after / 4)
        .missed_heartbeats(4);
    // Without this, a worker looks for jobs at its heartbeats only. `poll_with_interval` loses
    // wake-ups in apalis 1.0.0.
    let polls = stream::unfold((), async |()| {
        tokio::time::sleep(Duration::from_millis(250)).await;
        Some(((), ()))
    });
    let polls = StreamStrategy::new(Box::pin(polls));
    // A name that is used again hides that its earlier worker died.
    let context = WorkerContext::new(&format!("mailer-{:032x}", rand::random::<u128>()));
    // With `Value`, a job of another version of `Mail` fails in `send`. A job that apalis can not
    // decode ends the worker, together with the other jobs that it took.
    let storage = PostgresStorage::<Value>::new(pool);
    let worker = WorkerBuilder::new(&context)
        .backend(storage.with_config(config).poll_with_strategy(polls))
        .data(server)
        .data(pool.clone())
        .concurrency(16)
        .build(send);
    let mut running = std::pin::pin!(worker.run());
    tokio::select! {
        ended = &mut running => {
            ended?;
            return Err("the worker ended by itself".into());
        }
        () = stop.cancelled() => context.stop()?,
    }
    Ok(running.await?)
}
