//! [`EndedResponse`]: a response whose body is dropped, and whose tasks have not started.

#[cfg(feature = "sent")]
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[cfg(feature = "sent")]
use crate::response::EndKind;
use crate::{registry::RequestScope, response::BodyState};

/// A response whose body is dropped. [`finish`](Self::finish) ends it and starts its tasks.
#[cfg_attr(
    not(feature = "sent"),
    expect(dead_code, reason = "only a tracked connection finishes it")
)]
pub(crate) struct EndedResponse {
    state: RequestScope,
    body: BodyState,
    _open: Option<TaskTrackerToken>,
}

impl EndedResponse {
    pub(super) const fn new(
        state: RequestScope,
        body: BodyState,
        open: Option<TaskTrackerToken>,
    ) -> Self {
        Self {
            state,
            body,
            _open: open,
        }
    }
}

#[cfg(feature = "sent")]
impl EndedResponse {
    /// Ends the response.
    pub(crate) fn finish(&mut self, bytes_sent: Option<u64>) {
        let body = std::mem::take(&mut self.body);
        self.state.finish(body, bytes_sent, Instant::now());
    }

    /// Returns whether the server has all of the response.
    pub(crate) fn is_complete(&self) -> bool {
        let head = self.state.head();
        self.body.is_complete(&head.method, head.version)
    }

    /// Returns how many of the bytes that the body yielded a server sends.
    pub(crate) fn sendable(&self) -> u64 {
        self.body.sendable(self.state.head().version)
    }

    /// Ends a response whose connection died before the last byte.
    pub(crate) fn interrupt(&mut self, bytes_sent: Option<u64>) {
        self.body.set_kind(EndKind::Interrupted);
        self.finish(bytes_sent);
    }
}
