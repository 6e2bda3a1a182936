//! [`Order`]: how the tasks of one request run beside each other.

/// How the tasks of one request run beside each other. The tasks of different requests always run beside each other.
///
/// # Examples
///
/// ```
/// use tower_background::{Order, Supervisor};
///
/// let supervisor = Supervisor::builder().order(Order::Sequential).build();
/// # drop(supervisor);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// All at once, started in the order added: each is polled once, and one that does not end by that goes on beside the
    /// others, as a tokio task of its own. One that computes for long before its first `await` holds up those after it; give it
    /// to [`Task::blocking`](crate::Task::blocking).
    #[default]
    Concurrent,
    /// One after the other in the order added. After one that failed, the next still runs.
    Sequential,
    /// One after the other in the order added. After one that failed, panicked or timed out, the rest is skipped.
    FailFast,
}
