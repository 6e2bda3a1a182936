//! [`Order`]: how the tasks of one request run beside each other.

/// How the tasks of one request run beside each other. The tasks of different requests always run
/// beside each other.
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
    /// All tasks run at once. They are given to the runtime in the order in which you added them; a
    /// runtime with several workers can start them in another order.
    #[default]
    Concurrent,
    /// The tasks run one after the other, in the order in which you added them. After a failure the
    /// next task still runs.
    Sequential,
    /// The tasks run one after the other. After a task that failed, panicked or timed out, the rest
    /// is skipped.
    FailFast,
}
