//! [`JobStore`]: what the queues of this crate ask of a database.

use std::{fmt, time::Duration};

use apalis_core::task::Task;
use tokio::sync::mpsc;

use crate::error::BoxError;

/// A database that keeps jobs, as a `SqliteStore` does.
///
/// What it does is for [`JobQueue`](crate::JobQueue) and [`JobWorker`](crate::JobWorker) alone, and changes with the tables of
/// apalis.
pub trait JobStore: Clone + fmt::Debug + Send + Sync + 'static {
    /// A connection to the database, which a transaction derefs to.
    type Connection: Send;

    /// Writes jobs as a part of what the connection is at. With a grace they do not start before it is over.
    #[doc(hidden)]
    fn write(
        connection: &mut Self::Connection,
        queue: &str,
        tasks: Vec<Task<Vec<u8>>>,
        grace: Option<Duration>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Writes jobs, all or none.
    #[doc(hidden)]
    fn write_alone(
        &self,
        queue: &str,
        tasks: Vec<Task<Vec<u8>>>,
        grace: Option<Duration>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Gives jobs that wait their own start times, or now.
    #[doc(hidden)]
    fn release(&self, jobs: Vec<Start>) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Notes that the worker lives, and gives back what workers had that are dead for this long.
    #[doc(hidden)]
    fn alive(&self, worker: &str, queue: &str, dead_after: Duration) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Strikes off the queue's workers that were not seen to live for so long, but for those that a job still tells of.
    #[doc(hidden)]
    fn forget(&self, queue: &str, dead_for: Duration) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Takes jobs that are due, at most this many. Each has begun one more attempt with that.
    #[doc(hidden)]
    fn take(&self, worker: &str, queue: &str, limit: usize) -> impl Future<Output = Result<Vec<Taken>, BoxError>> + Send;

    /// Notes how an attempt ended, if it is still the job's last one, and the job is still the worker's.
    #[doc(hidden)]
    fn finish(
        &self,
        worker: &str,
        id: &str,
        attempt: u32,
        verdict: &Verdict,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Sends for each job that is now due, as far as the database tells. Ends never, or with an error.
    #[doc(hidden)]
    fn listen(&self, queue: &str, due: mpsc::Sender<()>) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// When a job of its own would start: seconds since 1970, or at once.
#[doc(hidden)]
#[derive(Debug, Clone)]
#[expect(unnameable_types, reason = "only hidden methods have it")]
#[non_exhaustive]
pub struct Start {
    pub id: String,
    pub at: Option<i64>,
}

/// A job that a worker has taken, with its attempts and this one.
#[doc(hidden)]
#[derive(Debug)]
#[allow(unnameable_types, unreachable_pub, reason = "only a hidden method has it, within an `impl Future`: Rust 1.85 sees none")]
#[non_exhaustive]
pub struct Taken {
    pub id: String,
    pub args: Vec<u8>,
    pub attempt: u32,
}

/// How an attempt ended.
#[doc(hidden)]
#[derive(Debug)]
#[expect(unnameable_types, reason = "only hidden methods have it")]
#[non_exhaustive]
pub enum Verdict {
    Done,
    /// Another attempt comes after this delay, if there is one left.
    Failed(String, Duration),
    /// No attempt could end otherwise.
    Killed(String),
}

impl Verdict {
    /// As apalis calls it.
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Failed(..) => "Failed",
            Self::Killed(_) => "Killed",
        }
    }

    /// As apalis writes it.
    pub fn result(&self) -> serde_json::Value {
        match self {
            Self::Done => serde_json::json!({ "Ok": null }),
            Self::Failed(error, _) | Self::Killed(error) => serde_json::json!({ "Err": error }),
        }
    }

    /// How long the job waits for its next attempt.
    pub const fn delay(&self) -> Duration {
        match self {
            Self::Failed(_, delay) => *delay,
            Self::Done | Self::Killed(_) => Duration::ZERO,
        }
    }
}
