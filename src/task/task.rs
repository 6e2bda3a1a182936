//! [`Task`]: work, and how it should run.

use std::{
    borrow::Cow,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project::pin_project;

use super::{
    condition::When,
    context::TaskContext,
    limit::Limit,
    name::Name,
    output::TaskOutput,
    work::{BlockingFunction, BlockingWork, FunctionWork, FutureWork, Work, WorkResult},
};
use crate::{
    error::BoxError,
    util::{catch_and_log, drop_and_log},
};

/// One piece of work that a request leaves for later, and how it should run.
///
/// A task starts when the response of its request is over, if its [condition](When) then holds.
/// Without a call of [`when`](Self::when) it runs after every response that had a head.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::{Task, When};
///
/// let task = Task::new(async { std::fs::remove_file("draft") })
///     .named("remove-draft")
///     .timeout(Duration::from_secs(5))
///     .when(When::Success);
/// assert_eq!(task.name(), Some("remove-draft"));
/// ```
#[must_use = "a task does nothing until you add it to the `BackgroundTasks` of a request"]
pub struct Task {
    entry: Pin<Box<Entry<dyn Work>>>,
}

/// The options and the work of a task, in one allocation.
#[pin_project]
struct Entry<W: ?Sized> {
    options: Options,
    #[pin]
    work: W,
}

/// How a task should run.
#[derive(Default)]
struct Options {
    name: Option<Name>,
    when: When,
    /// Whether the work is a function that makes the future, and must be called first.
    needs_call: bool,
    /// What few tasks have, so that the others stay small.
    rare: Option<Box<Rare>>,
}

#[derive(Default)]
struct Rare {
    timeout: Option<Duration>,
    unique: Option<Name>,
    limit: Option<Limit>,
    fallback: Option<Task>,
    /// Whether the work of the task is the fallback of another task.
    is_fallback: bool,
}

impl Task {
    /// Creates a task that runs a future.
    ///
    /// The future returns `()` or a `Result<(), E>`. An error is counted, logged with the name of
    /// the task, and reported to observers, so return errors instead of logging them yourself. For
    /// a block that uses `?`, see [`fallible`](Self::fallible).
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
        Self::from_work(FutureWork::new(future))
    }

    /// Creates a task that runs a future whose block uses `?`.
    ///
    /// It is [`new`](Self::new) with a fixed error type, so that the block needs no type
    /// annotation.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::fallible(async move {
    ///     let port: u16 = "80".parse()?;
    ///     println!("{port}");
    ///     Ok(())
    /// });
    /// # drop(task);
    /// ```
    pub fn fallible<F>(future: F) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self::from_work(FutureWork::new(future))
    }

    /// Creates a task that calls a function when it starts, and runs the future that the function
    /// returns.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::with_context(|cx| async move {
    ///     println!("{:?}", cx.end().and_then(|end| end.status()));
    /// });
    /// # drop(task);
    /// ```
    pub fn with_context<F, Fut>(function: F) -> Self
    where
        F: FnOnce(TaskContext) -> Fut + Send + 'static,
        Fut: Future<Output: TaskOutput> + Send + 'static,
    {
        let mut task = Self::from_work(FunctionWork::new(function));
        task.options_mut().needs_call = true;
        task
    }

    /// Creates a task that runs a function on [tokio's threads for blocking
    /// work](tokio::task::spawn_blocking).
    ///
    /// Nothing can stop a function that runs. A shutdown counts it as aborted, but the runtime, and
    /// so the process, waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::blocking(|| std::fs::remove_file("draft"));
    /// # drop(task);
    /// ```
    pub fn blocking<F, T>(function: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::blocking_with_context(|_| function())
    }

    /// Creates a task like [`blocking`](Self::blocking), whose function gets the [`TaskContext`].
    ///
    /// Nothing can stop a running function from outside. Ask [`TaskContext::is_cancelled`] from
    /// time to time.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// let task = Task::blocking_with_context(|cx| {
    ///     for chunk in 0..1_000 {
    ///         if cx.is_cancelled() {
    ///             return Err(format!("stopped before chunk {chunk}"));
    ///         }
    ///     }
    ///     Ok(())
    /// });
    /// # drop(task);
    /// ```
    pub fn blocking_with_context<F, T>(function: F) -> Self
    where
        F: FnOnce(TaskContext) -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::from_work(BlockingWork::new(function))
    }

    fn from_work(work: impl Work + 'static) -> Self {
        Self {
            entry: Box::pin(Entry {
                options: Options::default(),
                work,
            }),
        }
    }

    /// Names the task, for logs, metrics and
    /// [`BackgroundTasks::remove`](crate::BackgroundTasks::remove). Several tasks may have the same
    /// name.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.options_mut().name = Some(Name::from(name.into()));
        self
    }

    /// Stops the task when it has run for this long: its future is dropped. The time counts from the
    /// task's own start, as with `tokio::time::timeout`.
    ///
    /// A blocking function cannot be stopped: its context is cancelled, the task counts as timed
    /// out, and the function may still run.
    ///
    /// On a runtime without a [time driver](tokio::runtime::Builder::enable_time) the task counts as
    /// panicked.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.rare_mut().timeout = Some(timeout);
        self
    }

    /// Runs the task only if this condition holds at the end of the response. The default is
    /// [`When::Responded`].
    pub fn when(mut self, when: When) -> Self {
        self.options_mut().when = when;
        self
    }

    /// Skips the task if another task with the same key waits or runs.
    ///
    /// This is decided when the task would start: after the end of its response, if its condition
    /// holds. A task whose response is still open suppresses no other task. The key is compared
    /// among all tasks of the supervisor. A task that is skipped counts as
    /// [`Outcome::Skipped`](crate::Outcome::Skipped), and as one of
    /// [`Stats::duplicates`](crate::Stats::duplicates).
    ///
    /// # Examples
    ///
    /// A thousand requests find a cache stale, and it is refreshed once.
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Task};
    ///
    /// fn prices_are_stale(tasks: &BackgroundTasks) {
    ///     tasks.add(Task::new(async { println!("refresh") }).unique("refresh-prices"));
    /// }
    /// # let _ = prices_are_stale;
    /// ```
    pub fn unique(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.rare_mut().unique = Some(Name::from(key.into()));
        self
    }

    /// Runs the task only while fewer tasks than the limit run with it. See [`Limit`].
    pub fn limit(mut self, limit: &Limit) -> Self {
        self.rare_mut().limit = Some(limit.clone());
        self
    }

    /// Runs `future` in place of the work if the process stops before the work is done.
    ///
    /// The fallback runs if the supervisor was shut down before the task was added, or if the grace
    /// of a [shutdown](crate::Supervisor::shutdown) ends before the work did. The work is dropped
    /// first. The fallback waits for no permit, and it has
    /// [`abort_after`](crate::SupervisorBuilder::abort_after) to finish. It only runs if the
    /// condition of the task holds as far as it is known: a response that is still open counts by
    /// its head.
    ///
    /// Success of the fallback is [`Outcome::FellBack`](crate::Outcome::FellBack), and an error is
    /// [`Outcome::Failed`](crate::Outcome::Failed). It runs only in a shutdown, and not if the
    /// runtime ends without one. A blocking function that runs already cannot be
    /// dropped: its context is cancelled, and the fallback runs while the function may still run.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Task;
    ///
    /// async fn send(mail: String) {}
    /// async fn store_for_later(mail: String) -> std::io::Result<()> {
    ///     tokio::fs::write("outbox/mail", mail).await
    /// }
    ///
    /// let mail = "welcome".to_owned();
    /// let task = Task::new(send(mail.clone())).shutdown_fallback(store_for_later(mail));
    /// # drop(task);
    /// ```
    pub fn shutdown_fallback<F>(mut self, future: F) -> Self
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        self.rare_mut().fallback = Some(Self::new(future));
        self
    }

    /// Returns the name of the task, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.options().name.as_deref()
    }

    #[inline]
    fn options(&self) -> &Options {
        &self.entry.options
    }

    #[inline]
    fn options_mut(&mut self) -> &mut Options {
        self.entry.as_mut().project().options
    }

    /// Returns the name. It is cheap to clone.
    #[inline]
    pub(crate) fn shared_name(&self) -> Option<&Name> {
        self.options().name.as_ref()
    }

    #[inline]
    pub(crate) fn condition(&self) -> &When {
        &self.options().when
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.entry.work.is_blocking()
    }

    /// Returns whether the task has options that few tasks have.
    #[inline]
    pub(crate) fn has_rare_options(&self) -> bool {
        self.rare().is_some()
    }

    #[inline]
    fn rare(&self) -> Option<&Rare> {
        self.options().rare.as_deref()
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.options_mut().rare.get_or_insert_default()
    }

    #[inline]
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.rare()?.timeout
    }

    #[inline]
    pub(crate) fn unique_key(&self) -> Option<&Name> {
        self.rare()?.unique.as_ref()
    }

    #[inline]
    pub(crate) fn shared_limit(&self) -> Option<&Limit> {
        self.rare()?.limit.as_ref()
    }

    #[inline]
    pub(crate) fn has_fallback(&self) -> bool {
        self.rare().is_some_and(|rare| rare.fallback.is_some())
    }

    /// Returns whether the work of the task is the fallback of another task.
    #[inline]
    pub(crate) fn is_fallback(&self) -> bool {
        self.rare().is_some_and(|rare| rare.is_fallback)
    }

    /// Returns the shutdown fallback as a task with the same name and condition.
    pub(crate) fn take_fallback(&mut self) -> Option<Self> {
        let options = self.options_mut();
        let mut fallback = options.rare.as_mut()?.fallback.take()?;
        let (name, when) = (options.name.clone(), options.when.clone());
        let options = fallback.options_mut();
        (options.name, options.when) = (name, when);
        fallback.rare_mut().is_fallback = true;
        Some(fallback)
    }

    /// Returns whether [`call`](Self::call) must come before the next poll.
    #[inline]
    pub(crate) fn needs_call(&self) -> bool {
        self.options().needs_call
    }

    /// Calls the function that makes the future. Code of the user runs, and may panic.
    pub(crate) fn call(&mut self, context: TaskContext) {
        self.options_mut().needs_call = false;
        self.entry.as_mut().project().work.call(context);
    }

    /// Polls the work. Code of the user runs, and may panic.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<WorkResult> {
        self.entry.as_mut().project().work.poll(cx)
    }

    /// Takes the function of a blocking task.
    #[inline]
    pub(crate) fn take_function(&mut self) -> Option<BlockingFunction> {
        self.entry.as_mut().project().work.take_function()
    }

    /// Drops the work.
    #[inline]
    fn clear(&mut self) {
        catch_and_log("a value that a task owns", || {
            self.entry.as_mut().project().work.clear();
        });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // A second panic while the first one unwinds would abort the process, so each value of the
        // user is dropped on its own.
        self.clear();
        let options = self.options_mut();
        if matches!(options.when, When::Matches(_)) {
            drop_and_log("the condition of a task", std::mem::take(&mut options.when));
        }
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
            .field("name", &self.options().name)
            .field("when", &self.options().when)
            .field("timeout", &self.time_limit())
            .finish_non_exhaustive()
    }
}
