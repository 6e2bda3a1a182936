//! [`Limit`]: how many tasks of one kind run at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A limit for tasks of one kind, such as the four connections that an SMTP server takes.
///
/// Give clones of one `Limit` to all tasks of the kind with [`Task::limit`](crate::Task::limit). A
/// task that waits for it takes no [`max_concurrent`](crate::SupervisorBuilder::max_concurrent)
/// permit, and holds up no other task. It is first come, first served, and a task that waits can be
/// removed.
///
/// # Examples
///
/// ```
/// use tower_background::{BackgroundTasks, Limit, Task};
///
/// #[derive(Clone)]
/// struct Mailer { connections: Limit }
///
/// impl Mailer {
///     fn new() -> Self {
///         Self { connections: Limit::new(4) }
///     }
///
///     fn send(&self, tasks: &BackgroundTasks, mail: String) {
///         tasks.add(Task::new(async move { println!("{mail}") }).limit(&self.connections));
///     }
/// }
/// # let _ = (Mailer::new, Mailer::send);
/// ```
#[derive(Debug, Clone)]
pub struct Limit(Arc<Semaphore>);

impl Limit {
    /// Creates a limit of so many tasks.
    ///
    /// # Panics
    ///
    /// Panics if `tasks` is zero, because no task would ever run, or larger than
    /// [`Semaphore::MAX_PERMITS`].
    #[must_use]
    pub fn new(tasks: usize) -> Self {
        assert!(tasks > 0, "the limit is 0: no task would ever run");
        Self(Arc::new(Semaphore::new(tasks)))
    }

    pub(crate) const fn semaphore(&self) -> &Arc<Semaphore> {
        &self.0
    }
}
