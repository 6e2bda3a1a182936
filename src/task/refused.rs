//! [`Refused`]: the error that gives a task back after a shutdown.

use std::{
    error::Error,
    fmt,
    sync::{Mutex, PoisonError},
};

use super::{name::Name, task::Task};

/// The supervisor was shut down, so it does not take the task. The error gives the task back.
///
/// `Debug` prints the same text as `Display`.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use tower_background::{Supervisor, Task};
///
/// let supervisor = Supervisor::new();
/// supervisor.shutdown(Duration::ZERO).await;
/// let refused = supervisor.spawn(Task::new(async {}).named("late")).unwrap_err();
/// assert_eq!(refused.into_task().name(), Some("late"));
/// # }
/// ```
pub struct Refused {
    name: Option<Name>,
    /// The mutex makes the error `Sync`, so that `?` converts it to a
    /// [`BoxError`](crate::BoxError). Nobody locks the mutex.
    task: Mutex<Task>,
}

impl Refused {
    pub(crate) fn new(task: Task) -> Self {
        Self {
            name: task.shared_name().cloned(),
            task: Mutex::new(task),
        }
    }

    /// Returns the task.
    pub fn into_task(self) -> Task {
        self.task
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_deref() {
            Some(name) => write!(f, "the task `{name}`")?,
            None => f.write_str("a task")?,
        }
        f.write_str(
            " was refused: its supervisor was shut down; call `shutdown` after the server has \
             stopped",
        )
    }
}

impl Error for Refused {}
