//! [`Order`]: whether the tasks of one request run at once or one after the other.

/// Whether the tasks of one request run at once or one after the other.
///
/// The order does not concern tasks of different requests: they run at once.
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
    /// All tasks run at once. They are spawned in the order in which you added them, but a runtime
    /// with several workers can run them in another order.
    #[default]
    Concurrent,
    /// The tasks run one after the other, in the order in which you added them. After a failure the
    /// next task still runs.
    Sequential,
    /// The tasks run one after the other. After a task that failed, panicked or timed out, the rest
    /// is skipped.
    FailFast,
}
