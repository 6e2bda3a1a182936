//! [`IntoTasks`]: what can be given to a queue of apalis' kind: a job or a [`Task`] of apalis' with options, or a list of either.

use apalis_core::task::{Task, task_id::TaskId};
use ulid::Ulid;

/// What can be given to a queue: a job, a job with options as apalis' [`Task`], or a `Vec` of either, which is written as one.
///
/// # Examples
///
/// ```
/// use apalis_core::task::{Task, builder::TaskBuilder};
/// use tower_background::IntoTasks;
///
/// fn tasks(jobs: impl IntoTasks<&'static str>) -> Vec<Task<&'static str>> {
///     jobs.into_tasks()
/// }
///
/// let urgent = TaskBuilder::new("mail to ada").priority(9).idempotency_key("ada").build();
/// let urgent = tasks(urgent).remove(0);
/// assert_eq!(urgent.priority(), Some(9));
/// assert!(urgent.task_id().is_some(), "it has an id before it is written");
///
/// assert_eq!(tasks("mail to bob").len(), 1);
/// assert_eq!(tasks(vec!["mail to cy", "mail to di"]).len(), 2);
/// ```
pub trait IntoTasks<J>: Send + 'static {
    /// The tasks, in their order. Each has an id: a new ULID where it had none.
    fn into_tasks(self) -> Vec<Task<J>>;
}

impl<J: Send + 'static> IntoTasks<J> for J {
    fn into_tasks(self) -> Vec<Task<J>> {
        vec![with_id(Task::new(self))]
    }
}

impl<J: Send + 'static> IntoTasks<J> for Task<J> {
    fn into_tasks(self) -> Vec<Self> {
        vec![with_id(self)]
    }
}

impl<J: Send + 'static> IntoTasks<J> for Vec<J> {
    fn into_tasks(self) -> Vec<Task<J>> {
        self.into_iter().map(Task::new).map(with_id).collect()
    }
}

impl<J: Send + 'static> IntoTasks<J> for Vec<Task<J>> {
    fn into_tasks(self) -> Self {
        self.into_iter().map(with_id).collect()
    }
}

/// The engines would make an id as well, but tell nobody which, and a worker of apalis' stumbles over one that is no ULID.
fn with_id<J>(task: Task<J>) -> Task<J> {
    match task.task_id() {
        Some(_) => task,
        None => task.into_builder().task_id(TaskId::from_string(Ulid::generate().to_string())).build(),
    }
}
