//! [`Refused`]: a task that was not taken.

use std::{error::Error, fmt};

use super::task::Task;

/// The supervisor was shut down and does not take the task. The error gives the task back.
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
pub struct Refused(Task);

impl Refused {
    pub(crate) const fn new(task: Task) -> Self {
        Self(task)
    }

    /// Returns the task.
    pub fn into_task(self) -> Task {
        self.0
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refused").field(&self.0).finish()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name() {
            Some(name) => write!(
                f,
                "the task `{name}` was refused: its supervisor was shut down"
            ),
            None => f.write_str("a task was refused: its supervisor was shut down"),
        }
    }
}

impl Error for Refused {}
