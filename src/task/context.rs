//! [`TaskContext`]: what a running task can ask.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::name::Name;
use crate::response::ResponseEnd;

/// What a running task can ask about its request and its supervisor.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::Task;
///
/// let task = Task::with_context(|cx| async move {
///     while !cx.is_cancelled() {
///         tokio::select! {
///             () = cx.cancelled() => println!("the process stops"),
///             () = tokio::time::sleep(Duration::from_secs(1)) => println!("still at work"),
///         }
///     }
/// });
/// # drop(task);
/// ```
#[derive(Debug, Clone)]
pub struct TaskContext {
    name: Option<Name>,
    end: Option<Arc<ResponseEnd>>,
    cancel: CancellationToken,
}

impl TaskContext {
    pub(crate) const fn new(
        name: Option<Name>,
        end: Option<Arc<ResponseEnd>>,
        cancel: CancellationToken,
    ) -> Self {
        Self { name, end, cancel }
    }

    /// Returns the name of the task, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns how the response ended, as far as it was known when the task started. Returns `None`
    /// if the task has no request, because [`Supervisor::spawn`](crate::Supervisor::spawn) started
    /// it.
    #[must_use]
    pub fn end(&self) -> Option<&ResponseEnd> {
        self.end.as_deref()
    }

    /// Returns whether the task should stop: the grace of a [shutdown](crate::Supervisor::shutdown)
    /// is over, or a blocking task has run longer than its timeout.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits until the task should stop. See [`is_cancelled`](Self::is_cancelled).
    ///
    /// # Cancel safety
    ///
    /// You can drop the future at any time and wait again.
    #[must_use = "futures do nothing unless awaited"]
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cancel.clone().cancelled_owned()
    }
}
