//! [graphile_worker](https://docs.rs/graphile_worker) as a destination: it keeps each mode.
//!
//! A job is a row in PostgreSQL, so it is durable when its transaction is committed, which may be one that writes other rows as
//! well. A row starts at a time, so it can be held: until its release, or for its grace if there is none.

use std::time::Duration;

use chrono::Utc;
use graphile_worker::{
    FailureReason, IntoTaskHandlerResult, JobKeyMode, JobRecovery, JobRecoveryResult, JobSpec, JobSpecBuilder, TaskHandler,
    WorkerContext, WorkerOptions, WorkerRecoveryConfig, WorkerUtils,
};
use sqlx::{PgPool, PgTransaction};
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use tower_background::{BoxError, HandOff, Receipt};

use crate::{ATTEMPTS, Mail, MailServer};

/// The queue, as those have it who write jobs.
#[derive(Clone)]
pub struct Queue {
    pool: PgPool,
    client: WorkerUtils,
}

impl Queue {
    /// The queue behind these connections. Makes its tables if there are none.
    ///
    /// A pool waits half a minute for a connection, if nobody tells it otherwise by `acquire_timeout`: as long waits a client
    /// for its 503 while the database is away.
    pub async fn new(pool: PgPool) -> Result<Self, BoxError> {
        let client = WorkerUtils::new(&pool, "graphile_worker");
        client.migrate().await?;
        Ok(Self { pool, client })
    }

    /// Mails that are committed before the head of their response, and may start at once.
    #[must_use]
    pub fn durable(&self) -> HandOff<Mail> {
        let queue = self.clone();
        HandOff::durable(service_fn(move |mail: Mail| {
            let queue = queue.clone();
            async move { queue.client.add_job(mail.clone(), spec(&mail).build()).await.map(drop) }
        }))
    }

    /// Mails that are committed before the head of their response, and start after its end, or when the grace is over.
    #[must_use]
    pub fn held(&self, grace: Duration) -> HandOff<Mail> {
        let queue = self.clone();
        HandOff::held(service_fn(move |mail: Mail| {
            let queue = queue.clone();
            async move {
                let job = queue.client.add_job(mail.clone(), spec(&mail).run_at(Utc::now() + grace).build()).await?;
                Ok::<_, BoxError>(Held { pool: queue.pool, id: *job.id() })
            }
        }))
    }

    /// A held mail that exists if, and only if, the transaction is committed. After that, hand it to [`Task::release`].
    ///
    /// [`Task::release`]: tower_background::Task::release
    pub async fn hold_in(&self, transaction: &mut PgTransaction<'_>, mail: Mail, grace: Duration) -> Result<Held, BoxError> {
        // The time is this machine's, and the database compares it with its own: a grace has to be longer than clocks differ.
        let spec = spec(&mail).run_at(Utc::now() + grace).build();
        let job = self.client.clone().with_executor(transaction).add_job(mail, spec).await?;
        Ok(Held { pool: self.pool.clone(), id: *job.id() })
    }
}

/// How a mail is queued.
fn spec(mail: &Mail) -> JobSpecBuilder {
    // A key alone would replace the job that has it, also one that runs, which is then done twice: this mode leaves it alone.
    JobSpec::builder().max_attempts(ATTEMPTS).job_key(mail.address.clone()).job_key_mode(JobKeyMode::UnsafeDedupe)
}

/// A mail that waits.
pub struct Held {
    pool: PgPool,
    id: i64,
}

impl Receipt for Held {
    /// An error is no loss: the job starts when its grace is over.
    async fn release(self) -> Result<(), BoxError> {
        // The client's own `reschedule_jobs` takes a time of this machine, and takes none as 'leave it'; and it tells no worker,
        // which would find the job when it asks the next time. A job that has begun, as its grace was over, is left alone.
        sqlx::query(
            r#"SELECT pg_notify('jobs:insert', '{"count":1}') FROM graphile_worker.reschedule_jobs(
                   ARRAY(SELECT id FROM graphile_worker.jobs WHERE id = $1 AND attempts = 0 AND run_at > now()),
                   run_at := now()
               )"#,
        )
        .bind(self.id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl TaskHandler for Mail {
    const IDENTIFIER: &'static str = "mail";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let server = *context.get_ext::<MailServer>().ok_or("the worker knows no mail server")?;
        let attempt = i64::from(*context.job().attempts());
        server.send(self, attempt).await.map_err(|error| error.to_string())
    }
}

/// Sends mails until it is told to stop. What a worker had that was silent for `dead_after` is taken up.
pub async fn work(pool: PgPool, server: MailServer, dead_after: Duration, stop: CancellationToken) {
    // A worker ends with the first error of its database, also with one of a moment.
    while let Err(error) = run(&pool, server, dead_after, &stop).await {
        eprintln!("the worker begins anew: {error}");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn run(pool: &PgPool, server: MailServer, dead_after: Duration, stop: &CancellationToken) -> Result<(), BoxError> {
    // Off, unless it is asked for: the jobs of a worker that died would stay locked. Every worker needs it, since one without is
    // taken for dead as soon as it has a job for that long. Jobs are taken up at once: that it is dead is known by now.
    let recovery = WorkerRecoveryConfig::default()
        .heartbeat_interval(dead_after / 4)
        .sweep_interval(dead_after / 4)
        .sweep_threshold(dead_after)
        .recovery_delay(Duration::ZERO);
    let worker = WorkerOptions::default()
        .pg_pool(pool.clone())
        .add_extension(server)
        .define_job::<Mail>()
        .worker_recovery(recovery)
        // A job that is taken up has its attempt back, as a rule: one that kills its worker would kill them all, for ever.
        .on(JobRecovery, async |recovery| match recovery.reason {
            FailureReason::WorkerCrashed => JobRecoveryResult::FailWithBackoff,
            _ => JobRecoveryResult::Default,
        })
        // It takes SIGTERM and Ctrl-C for itself otherwise.
        .listen_os_shutdown_signals(false)
        .shutdown_signal(stop.clone().cancelled_owned())
        .init()
        .await?;
    Ok(worker.run().await?)
}
