//! graphile_worker: jobs are rows in PostgreSQL.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use chrono::Utc;
use graphile_worker::{
    FailureReason, IntoTaskHandlerResult, JobRecovery, JobRecoveryResult, JobSpec, TaskHandler,
    WorkerContext, WorkerOptions, WorkerRecoveryConfig, WorkerUtils,
};
use sqlx::{PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

use crate::{Mail, MailServer, add_user, to_the_end};

/// What handlers need.
#[derive(Clone)]
pub struct Shop {
    pool: PgPool,
    jobs: WorkerUtils,
}

/// Creates the tables of graphile_worker, if there are none.
pub async fn open(pool: PgPool) -> Result<Shop, BoxError> {
    let jobs = WorkerUtils::new(&pool, "graphile_worker");
    jobs.migrate().await?;
    Ok(Shop { pool, jobs })
}

/// Pushes a mail in a transaction. The job exists if the transaction commits.
pub async fn push_in(
    transaction: &mut PgTransaction<'_>,
    shop: &Shop,
    mail: Mail,
) -> Result<(), BoxError> {
    let mut jobs = shop.jobs.clone().with_executor(transaction);
    let spec = JobSpec::builder().max_attempts(25).build();
    jobs.add_job(mail, spec).await?;
    Ok(())
}

/// The user and the mail are in the database before the client has its answer.
pub async fn sign_up(State(shop): State<Shop>, address: String) -> StatusCode {
    to_the_end(async move {
        let mut transaction = shop.pool.begin().await?;
        add_user(&mut transaction, &address).await?;
        push_in(&mut transaction, &shop, Mail { to: address }).await?;
        Ok(transaction.commit().await?)
    })
    .await
}

impl TaskHandler for Mail {
    const IDENTIFIER: &'static str = "mail";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let server = *context.get_ext::<MailServer>().expect("`work` sets it");
        server.send(&self).await.map_err(|error| error.to_string())
    }
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
    // Recovery is off by default: jobs of a worker that died would stay locked. Each worker needs
    // it, because a worker without heartbeats counts as dead.
    let recovery = WorkerRecoveryConfig::default()
        .heartbeat_interval(dead_after / 4)
        .sweep_interval(dead_after / 4)
        .sweep_threshold(dead_after)
        .recovery_delay(Duration::ZERO);
    let worker = WorkerOptions::default()
        .pg_pool(pool.clone())
        .concurrency(16)
        .add_extension(server)
        .define_job::<Mail>()
        .worker_recovery(recovery)
        // By default such a job gets its attempt back, so a job that kills its worker is tried for
        // ever. The random delay separates this job from the others of the same worker.
        .on(JobRecovery, async |recovery| match recovery.reason {
            FailureReason::WorkerCrashed => {
                let attempts = *recovery.job.attempts();
                let longest = 1000 << attempts.min(12);
                let delay = Duration::from_millis(rand::random_range(0..longest));
                JobRecoveryResult::Reschedule {
                    run_at: Utc::now() + delay,
                    attempts: Some(attempts),
                }
            }
            _ => JobRecoveryResult::Default,
        })
        .listen_os_shutdown_signals(false)
        .shutdown_signal(stop.clone().cancelled_owned())
        .init()
        .await?;
    Ok(worker.run().await?)
}
