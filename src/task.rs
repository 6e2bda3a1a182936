//! [`Task`]: one piece of work that a request leaves for later.

use std::{borrow::Cow, fmt, time::Duration};

use crate::{
    context::TaskContext,
    error::BoxError,
    name::Name,
    when::When,
    work::{AsyncWork, BlockingWork, ContextWork, FutureWork, WorkResult},
};

/// What a task may return: `()`, or a `Result` whose error is counted and logged.
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
pub trait TaskOutput {
    /// What the supervisor counts and logs: an error is a failure of the task.
    ///
    /// # Errors
    ///
    /// The task has failed.
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

/// One piece of work that a request leaves for later, and how it is to be run.
///
/// It runs when its response is over, if its condition then holds; see [`When`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::{Task, When};
///
/// let mail = Task::new(async { std::fs::remove_file("draft") })
///     .named("remove-draft")
///     .timeout(Duration::from_secs(5))
///     .when(When::Success);
/// assert_eq!(mail.name(), Some("remove-draft"));
/// ```
#[must_use = "a task does nothing until it is added to the request's `BackgroundTasks`"]
pub struct Task {
    pub(crate) kind: Kind,
    pub(crate) name: Option<Name>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) when: When,
}

pub(crate) enum Kind {
    Async(AsyncWork),
    Blocking(BlockingWork),
}

impl Task {
    /// A task that runs a future.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::new(async { println!("after the response") });
    /// # drop(task);
    /// ```
    pub fn new<F>(future: F) -> Self
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        Self::of(Kind::Async(Box::pin(FutureWork { future })))
    }

    /// A task that calls a function when it starts, and runs the future that it returns.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::with_context(|cx| async move { println!("{:?}", cx.end().status()) });
    /// # drop(task);
    /// ```
    pub fn with_context<F, Fut>(function: F) -> Self
    where
        F: FnOnce(TaskContext) -> Fut + Send + 'static,
        Fut: Future<Output: TaskOutput> + Send + 'static,
    {
        Self::of(Kind::Async(Box::pin(ContextWork::new(function))))
    }

    /// A task that runs a function on [tokio's threads for blocking work](tokio::task::spawn_blocking).
    ///
    /// A function that is running can't be stopped from outside: it should ask [`TaskContext::is_cancelled`] from time to time.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::blocking(|cx| {
    ///     for chunk in 0..1_000 {
    ///         if cx.is_cancelled() {
    ///             return Err(format!("stopped before chunk {chunk}"));
    ///         }
    ///     }
    ///     Ok(())
    /// });
    /// # drop(task);
    /// ```
    pub fn blocking<F, T>(function: F) -> Self
    where
        F: FnOnce(TaskContext) -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::of(Kind::Blocking(Box::new(move |context| -> WorkResult { function(context).into_result() })))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, name: None, timeout: None, when: When::default() }
    }

    /// Names the task, for logs and figures, and for [`BackgroundTasks::remove`](crate::BackgroundTasks::remove). Names need
    /// not be unique.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(Name::from(name.into()));
        self
    }

    /// Ends the task when it has run for this long. The time counts from the task's own start.
    ///
    /// A future is dropped then. A blocking function can't be: its context is cancelled, and the task is counted as timed out
    /// while the function may still run.
    ///
    /// # Panics
    ///
    /// If the timeout is zero.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a timeout of zero would let no task run");
        self.timeout = Some(timeout);
        self
    }

    /// Runs the task only after such an end of the response; without a call of this, after any response.
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// The task's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Name::as_str)
    }
}

impl<F> From<F> for Task
where
    F: Future<Output: TaskOutput> + Send + 'static,
{
    fn from(future: F) -> Self {
        Self::new(future)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("when", &self.when)
            .finish_non_exhaustive()
    }
}
