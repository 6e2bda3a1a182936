//! [`TaskContext`]: what a running task can know and do.

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{end::ResponseEnd, name::Name, task::Header, tasks::BackgroundTasks};

/// What a running task can ask of the request that left it, and of its supervisor.
///
/// # Examples
///
/// ```
/// use tower_background::Task;
///
/// let task = Task::with_context(|cx| async move {
///     if cx.end().is_success() {
///         cx.tasks().add(async { println!("a task of a task") });
///     }
/// })
/// .named("parent");
/// # drop(task);
/// ```
#[derive(Debug, Clone)]
pub struct TaskContext {
    end: ResponseEnd,
    tasks: BackgroundTasks,
    name: Option<Name>,
    token: CancellationToken,
}

impl TaskContext {
    pub(crate) fn new(tasks: &BackgroundTasks, header: &Header, token: CancellationToken) -> Self {
        Self { end: tasks.response_end(header.unfinished), tasks: tasks.clone(), name: header.name.clone(), token }
    }

    /// The task's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Name::as_str)
    }

    /// How the response was over, as far as it was known when the task was released.
    #[must_use]
    pub const fn end(&self) -> &ResponseEnd {
        &self.end
    }

    /// The registry of the request, for tasks that add tasks: these start at once.
    #[must_use]
    pub fn tasks(&self) -> BackgroundTasks {
        self.tasks.clone()
    }

    /// Whether the task should come to its end: the grace of a [shutdown](crate::Supervisor::shutdown) is over, or a blocking
    /// task has run longer than its timeout.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the task should come to its end, see [`is_cancelled`](Self::is_cancelled).
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future loses nothing.
    #[must_use = "futures do nothing unless awaited"]
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        let cancelled: WaitForCancellationFutureOwned = self.token.clone().cancelled_owned();
        cancelled
    }
}
