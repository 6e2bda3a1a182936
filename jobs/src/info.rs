//! What an operator can know about a queue: [`Depth`] and [`JobInfo`].

use std::time::{Duration, SystemTime};

use crate::{
    message::{Headers, failures, last_error, parse_headers},
    time::time,
};

/// How many messages a queue has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// Messages that a worker could read now.
    pub ready: u64,
    /// Messages that are invisible: delayed, held, or read by a worker.
    pub invisible: u64,
    /// Messages in the archive.
    pub archived: u64,
    /// How long the oldest visible message has been visible.
    pub age_of_oldest: Duration,
}

/// Which messages to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which {
    /// Those in the queue.
    Queued,
    /// Those in the archive: jobs that failed for good.
    Archived,
}

/// What is known about a message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobInfo {
    /// The id that the push returned.
    pub id: i64,
    /// Whether it is in the archive.
    pub archived_at: Option<SystemTime>,
    /// When it was pushed.
    pub enqueued_at: SystemTime,
    /// When workers can see it.
    pub visible_at: SystemTime,
    /// How many times it was read.
    pub read_count: i32,
    /// The job as JSON.
    pub body: String,
    /// Its headers.
    pub headers: Headers,
}

/// Id, archived at, pushed at, visible at, read count, job and headers. Times are milliseconds since
/// 1970.
pub(crate) type InfoRow = (
    i64,
    Option<i64>,
    i64,
    i64,
    i32,
    Option<String>,
    Option<String>,
);

impl JobInfo {
    /// Makes one from a row of an engine.
    pub(crate) fn from_row(row: InfoRow) -> Self {
        let (id, archived_at, enqueued_at, visible_at, read_count, body, headers) = row;
        Self {
            id,
            archived_at: archived_at.map(time),
            enqueued_at: time(enqueued_at),
            visible_at: time(visible_at),
            read_count,
            body: body.unwrap_or_default(),
            headers: parse_headers(headers.as_deref()),
        }
    }

    /// Returns the last error that a worker noted.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        last_error(&self.headers)
    }

    /// Returns how many runs failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        failures(&self.headers)
    }
}
