//! [`Receipt`]: what a destination answers to a job that it holds.

use crate::{error::BoxError, task::Task, when::When};

/// What a destination answers to a job that it holds back: releasing it makes the job runnable.
///
/// A job that is never released, as the process died first, starts by itself after the grace that the destination was given.
///
/// # Examples
///
/// ```
/// use tower_background::{BoxError, Receipt};
///
/// /// A row of a table of jobs.
/// struct Row(u64);
///
/// impl Receipt for Row {
///     async fn release(self) -> Result<(), BoxError> {
///         println!("UPDATE jobs SET run_at = now() WHERE id = {}", self.0);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert!(Row(7).release().await.is_ok());
/// # }
/// ```
pub trait Receipt: Send + 'static {
    /// Makes what was written runnable now.
    ///
    /// # Errors
    ///
    /// The destination could not be told. The job then starts after its grace.
    fn release(self) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// Releases all of them, one after the other, and returns the first error.
impl<R: Receipt> Receipt for Vec<R> {
    async fn release(self) -> Result<(), BoxError> {
        let mut result = Ok(());
        for receipt in self {
            let released = receipt.release().await;
            result = result.and(released);
        }
        result
    }
}

impl Task {
    /// A task that releases a job which is held: what was written by hand, as in a transaction of one's own, is then
    /// released after the response as [`HandOff::held`](crate::HandOff::held) does it.
    ///
    /// It runs after any end of the response, is first in the order of its request, and its failure ends no order: it would
    /// only keep a job waiting that is written already. For that reason it is taken while a supervisor shuts down, too, until
    /// that has come to its end.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Receipt, Task};
    ///
    /// fn committed(tasks: &BackgroundTasks, receipt: impl Receipt) {
    ///     tasks.add(Task::release(receipt).named("welcome-mail"));
    /// }
    /// # struct Nothing;
    /// # impl Receipt for Nothing {
    /// #     async fn release(self) -> Result<(), tower_background::BoxError> { Ok(()) }
    /// # }
    /// # let tasks = BackgroundTasks::detached(&tower_background::Supervisor::new());
    /// # committed(&tasks, Nothing);
    /// # assert_eq!(tasks.names(), [Some("welcome-mail".to_owned())]);
    /// ```
    pub fn release(receipt: impl Receipt) -> Self {
        // Within a block, so that nothing is begun before the task is.
        let mut task = Self::new(async move { receipt.release().await }).when(When::Always);
        task.header_mut().first = true;
        task
    }
}
