//! Watches one response until it ends.

use std::time::Instant;

use http::{Response, StatusCode};
use http_body::Body;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Tasks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndKind {
    /// The server took the whole body.
    Complete,
    /// The future or the body was dropped too early.
    Interrupted,
    /// The service or the body failed, or the body ended short of its length.
    Error,
}

/// How and when a response ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) kind: EndKind,
    pub(crate) status: Option<StatusCode>,
    pub(crate) bytes: u64,
    pub(crate) started: Instant,
    pub(crate) head: Option<Instant>,
    pub(crate) ended: Instant,
}

/// The drop of this value ends the response and starts its tasks.
pub(crate) struct ResponseTracker {
    tasks: Tasks,
    started: Instant,
    head: Option<(StatusCode, Instant)>,
    expected: Option<u64>,
    bytes: u64,
    ended: bool,
    failed: bool,
    /// Counts the open response.
    _open: TaskTrackerToken,
}

impl ResponseTracker {
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self {
            _open: tasks.supervisor().open().token(),
            tasks,
            started: Instant::now(),
            head: None,
            expected: None,
            bytes: 0,
            ended: false,
            failed: false,
        }
    }

    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(crate) fn head<B: Body>(&mut self, response: &Response<B>) {
        self.head = Some((response.status(), Instant::now()));
        self.expected = response.body().size_hint().exact();
        self.ended = response.body().is_end_stream();
    }

    pub(crate) const fn data(&mut self, bytes: usize, last: bool) {
        self.bytes += bytes as u64;
        self.ended |= last;
    }

    pub(crate) const fn trailers(&mut self) {
        self.ended = true;
    }

    pub(crate) const fn ended(&mut self) {
        self.ended = true;
    }

    pub(crate) const fn failed(&mut self) {
        self.failed = true;
    }

    fn kind(&self) -> EndKind {
        match self.expected {
            _ if self.failed => EndKind::Error,
            Some(expected) if self.bytes >= expected => EndKind::Complete,
            Some(_) if self.ended => EndKind::Error,
            None if self.ended => EndKind::Complete,
            _ => EndKind::Interrupted,
        }
    }
}

impl Drop for ResponseTracker {
    fn drop(&mut self) {
        self.tasks.end(End {
            kind: self.kind(),
            status: self.head.map(|(status, _)| status),
            bytes: self.bytes,
            started: self.started,
            head: self.head.map(|(_, at)| at),
            ended: Instant::now(),
        });
    }
}
