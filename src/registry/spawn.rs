//! [`Supervisor::spawn`]: tasks without a request.

use super::{handle::TaskHandle, state::RequestState};
use crate::{
    supervisor::Supervisor,
    task::{Refused, Task},
};

impl Supervisor {
    /// Spawns a task without a request, such as the conversation of a WebSocket.
    ///
    /// The task is counted, listed, cancelled and awaited like the tasks of requests. It takes no
    /// permit but that of its own [`limit`](Task::limit). It has no default timeout, and does not
    /// count towards [`max_pending`](crate::SupervisorBuilder::max_pending). Its
    /// [condition](crate::When) is not judged. Inside it, [`defer`](crate::defer) and
    /// [`BackgroundTasks::current`](crate::BackgroundTasks::current) add further tasks without a
    /// request.
    ///
    /// Without a runtime, neither a current one nor a configured one, the task is aborted.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] with the task, if the supervisor was shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use tower_background::{Outcome, Supervisor, Task};
    ///
    /// let supervisor = Supervisor::new();
    /// let handle = supervisor.spawn(Task::new(async { println!("no request") }).named("refresh")).unwrap();
    /// assert!(matches!(handle.await, Outcome::Succeeded));
    /// # }
    /// ```
    pub fn spawn(&self, task: impl Into<Task>) -> Result<TaskHandle, Refused> {
        TaskHandle::add(&RequestState::without_request(self), task.into())
    }
}
