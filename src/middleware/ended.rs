//! [`EndedResponse`]: a response whose body is dropped, and whose tasks have not started.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

#[cfg(feature = "sent")]
use crate::response::EndKind;
use crate::{
    registry::RequestState,
    response::{BodyState, Judgement},
};

/// A response whose body is dropped. [`finish`](Self::finish) ends it and starts its tasks.
pub(crate) struct EndedResponse {
    state: Arc<RequestState>,
    body: BodyState,
    judgement: Judgement,
    _open: Option<TaskTrackerToken>,
}

impl EndedResponse {
    pub(super) const fn new(
        state: Arc<RequestState>,
        body: BodyState,
        judgement: Judgement,
        open: Option<TaskTrackerToken>,
    ) -> Self {
        Self {
            state,
            body,
            judgement,
            _open: open,
        }
    }

    /// Ends the response.
    pub(crate) fn finish(self, bytes_sent: Option<u64>) {
        let now = Instant::now();
        let details = self.body.into_details(self.judgement, bytes_sent, now);
        self.state.finish(details, now);
    }

    pub(super) fn warn_of_untracked(&self) {
        // The path is copied, because a subscriber may use the tasks of the request.
        self.state
            .supervisor()
            .warn_of_untracked(&self.state.path());
    }
}

#[cfg(feature = "sent")]
impl EndedResponse {
    /// Returns whether the server has all of the response.
    pub(crate) fn is_complete(&self) -> bool {
        self.judgement.0 == EndKind::Complete
    }

    /// Returns how many of the bytes that the body yielded a server sends.
    pub(crate) fn sendable(&self) -> u64 {
        self.body.sendable(self.state.head().version)
    }

    /// Ends a response whose connection died before the last byte.
    pub(crate) fn interrupt(mut self, bytes_sent: Option<u64>) {
        self.judgement = (EndKind::Interrupted, None);
        self.finish(bytes_sent);
    }
}
