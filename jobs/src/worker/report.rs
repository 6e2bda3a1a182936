//! What is known about the runs of a worker.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How the jobs of a worker have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Jobs that succeeded.
    pub done: u64,
    /// Runs that failed, and that are tried again.
    pub failed: u64,
    /// Jobs that were archived: they failed for good.
    pub archived: u64,
    /// Jobs that were snoozed, or given back when the worker stopped.
    pub returned: u64,
    /// Jobs that another worker took while they ran. Their results were not written.
    pub lost: u64,
    /// Jobs that are in hand now: they run, or their results are not yet written.
    pub running: usize,
}

/// How one run of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// The job is done.
    Done,
    /// It failed, and is tried again after this time.
    Failed(Duration),
    /// It failed for good.
    Archived,
    /// It was snoozed, or given back when the worker stopped.
    Returned,
}

/// One run of a job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobReport {
    /// The job.
    pub id: i64,
    /// Which attempt it was.
    pub attempt: u32,
    /// How it ended.
    pub outcome: JobOutcome,
    /// The error, if it failed.
    pub error: Option<String>,
    /// The time from the push to the start of this run.
    pub waited: Duration,
    /// How long it ran. `None` if it was archived because its process died.
    pub ran: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    done: AtomicU64,
    failed: AtomicU64,
    archived: AtomicU64,
    returned: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, outcome: JobOutcome) {
        let counter = match outcome {
            JobOutcome::Done => &self.done,
            JobOutcome::Failed(_) => &self.failed,
            JobOutcome::Archived => &self.archived,
            JobOutcome::Returned => &self.returned,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, running: usize) -> Counts {
        Counts {
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            archived: self.archived.load(Relaxed),
            returned: self.returned.load(Relaxed),
            lost: self.lost.load(Relaxed),
            running,
        }
    }
}
