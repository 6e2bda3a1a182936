//! Jobs that survive the process: queues on PostgreSQL or SQLite, and a worker for both.
//!
//! Push a job in a handler, before the answer. When the push returns `Ok`, the job is on disk, and
//! a [`Worker`] runs it at least once, also if the process is killed in between.
//!
//! A [`JobQueue`] is on one of two engines. `PgmqEngine`
//! uses the tables and functions of pgmq on PostgreSQL. `SqliteEngine` keeps the same model in a
//! file, for the processes of one machine. Each is behind a feature with the name of its database.
//!
//! # The model
//!
//! A message that a worker has read is invisible for some time, 30 s by default. The worker extends
//! this time while the job runs, and deletes the message after a success. If the worker dies, the
//! message becomes visible by itself. There are no leases and no rows that stay locked.
//!
//! Each read counts. A call of an older reader changes nothing, as it compares the count.
//!
//! # Examples
//!
#![cfg_attr(feature = "sqlite", doc = "```")]
#![cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
//! use std::time::Duration;
//! use serde::{Deserialize, Serialize};
//! use tower_background_jobs::{JobContext, JobError, JobQueue, SqliteEngine};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Mail { to: String }
//!
//! async fn send(mail: Mail, cx: JobContext) -> Result<(), JobError> {
//!     println!("attempt {}: a mail to {}", cx.attempt(), mail.to);
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("jobs.db");
//! let mails: JobQueue<Mail> = JobQueue::open(SqliteEngine::open(path).await?, "mails").await?;
//! let worker = mails.worker(send).start();
//!
//! mails.push(&Mail { to: "ada@example.org".to_owned() }).await?;
//!
//! while worker.counts().done == 0 {
//!     tokio::time::sleep(Duration::from_millis(5)).await;
//! }
//! let counts = worker.stop(Duration::from_secs(10)).await;
//! assert_eq!((counts.done, counts.failed), (1, 0));
//! # Ok(())
//! # }
//! ```
//!
//! A job can also be tied to a response: see [`JobQueue::hold`]. The README has a whole service, the
//! guarantees and the performance.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "what both engines use is of no use without one")
)]

mod backoff;
mod bounds;
mod engine;
mod error;
mod held;
mod info;
mod job;
mod message;
mod meter;
mod operations;
mod options;
#[cfg(feature = "postgres")]
mod pgmq;
mod queue;
mod queue_name;
#[cfg(feature = "sqlite")]
mod sqlite;
mod thread;
mod time;
mod worker;

#[cfg(feature = "postgres")]
pub use pgmq::PgmqEngine;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteEngine;
pub use {
    backoff::Backoff,
    error::{BoxError, Error},
    held::{Held, Hold},
    info::{Depth, JobInfo},
    job::{JobContext, JobError},
    options::PushOptions,
    queue::JobQueue,
    worker::{Counts, JobOutcome, JobReport, RunningWorker, Worker},
};

/// What an engine must do. Only needed to write another one.
pub mod engines {
    pub use crate::{
        engine::{Batch, Connection, Engine, Settled, Settlement, Wake},
        info::Which,
        message::{Claim, Headers, Message, NewMessage, Visible},
        queue_name::QueueName,
    };
}
