//! [`TaskState`]: where a task stands that has not ended.

use crate::util::metrics::Gauge;

/// The state of a task that has not ended.
///
/// # Examples
///
/// ```
/// use tower_background::{Supervisor, report::TaskState};
///
/// let tasks = Supervisor::new().tasks();
/// assert!(!tasks.iter().any(|task| task.state() == TaskState::Running));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TaskState {
    /// The response of the request is open.
    Deferred,
    /// The task waits for a permit, for its turn in a sequence, or for the runtime.
    Queued,
    /// The task runs.
    Running,
}

impl TaskState {
    pub(super) const fn gauge(self) -> Gauge {
        match self {
            Self::Deferred => Gauge::Deferred,
            Self::Queued => Gauge::Queued,
            Self::Running => Gauge::Running,
        }
    }
}
