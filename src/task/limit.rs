//! [`Limit`]: how many tasks of one kind can run at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A limit for tasks of one kind, such as the four connections that an SMTP server takes.
///
/// Give the same `Limit`, or clones of it, to all tasks of the kind: see
/// [`Task::limit`](crate::Task::limit). Tasks that wait for it run in the order in which they
/// became ready. A task that waits takes no
/// [`max_concurrent`](crate::SupervisorBuilder::max_concurrent) permit, holds up no task of another
/// kind, and can still be removed.
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
    /// Creates a limit of this many tasks at once.
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
