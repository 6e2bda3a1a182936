//! [`TaskOutput`]: what a task may return.

use crate::error::BoxError;

/// What a task may return: `()`, or a `Result<(), E>` whose error is counted, logged and reported.
///
/// Implement it for your own type to say which of its values are failures.
///
/// # Examples
///
/// ```
/// use tower_background::{BoxError, Task, TaskOutput};
///
/// enum Delivery { Done, Bounced }
///
/// impl TaskOutput for Delivery {
///     fn into_result(self) -> Result<(), BoxError> {
///         match self {
///             Self::Done => Ok(()),
///             Self::Bounced => Err("the mail came back".into()),
///         }
///     }
/// }
///
/// let task = Task::new(async { Delivery::Bounced });
/// # drop((task, Delivery::Done));
/// ```
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    label = "this task returns `{Self}`",
    note = "a task returns `()` or `Result<(), E>`: for a `Result<T, E>`, write `async move {{ call().await.map(drop) }}`",
    note = "for a value that is no `Result`, end the block with `;`: on a `Result`, that would drop the error",
    note = "for a block that uses `?`, write `Task::fallible(async move {{ ..; Ok(()) }})`",
    note = "a block that only panics, such as `async {{ todo!() }}`, returns `!`: write `Task::fallible(async {{ todo!() }})`, or use an `async fn`; for a closure, write `|| -> () {{ .. }}`",
    note = "a block that never ends, such as `async {{ loop {{ .. }} }}`, returns `!`: use `while` instead of `loop`"
)]
pub trait TaskOutput {
    /// Converts the value to the result that the supervisor counts and logs.
    ///
    /// # Errors
    ///
    /// Returns an error if the task has failed.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> TaskOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}
