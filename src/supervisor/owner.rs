//! [`Owner`]: what the supervisor asks of a request, and what it tells it.

use std::sync::Arc;

use crate::response::{RequestInfo, ResponseEnd};

/// The request that a task belongs to. It lives at least as long as its tasks.
pub(crate) trait Owner: Send + Sync {
    fn has_request(&self) -> bool;

    /// Returns whether the request came before the supervisor was shut down.
    fn is_admitted(&self) -> bool;

    /// Returns what is known of the request. `None` for a task without a request.
    fn request(&self) -> Option<RequestInfo>;

    /// Returns how the response ended, once it has.
    fn end(&self) -> Option<Arc<ResponseEnd>>;

    /// A shutdown has come to this phase: `Cancelling` or `Sealed`.
    fn shut_down(self: Arc<Self>, phase: Phase);
}

/// How far a supervisor is shut down. It only goes forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes tasks of all requests.
    #[default]
    Open,
    /// Takes tasks of requests that came before the shutdown, and waits for all tasks.
    Draining,
    /// The grace is over, and tasks were asked to stop.
    Cancelling,
    /// Takes no tasks. Those that are left are listed for the report.
    Closed,
    /// Takes no tasks, and those that are left stop.
    Sealed,
}
