//! [`Task`]: one piece of work that a request leaves for later.

use std::{borrow::Cow, fmt, pin::Pin, time::Duration};

use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    context::TaskContext,
    error::BoxError,
    log::Span,
    name::Name,
    panics::discard,
    when::When,
    work::{ContextWork, FunctionWork, FutureWork, Work},
};

/// A task's line in the supervisor's books.
pub(crate) type Key = usize;

/// What a task may return: `()`, or a `Result` whose error is counted and logged.
///
/// A block that never returns, as `async { loop { .. } }`, has the output `!`, which is neither; one with a `while` is `()`.
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
/// let endless = Task::new(async {
///     while std::future::ready(true).await {
///         tokio::task::yield_now().await;
///     }
/// });
/// # drop((task, endless, Delivery::Done));
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
    entry: Pin<Box<Entry<dyn Work>>>,
}

pin_project! {
    /// A task's work and all that goes with it, in one place.
    struct Entry<W: ?Sized> {
        header: Header,
        #[pin]
        work: W,
    }
}

/// What goes with a task's work.
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) name: Option<Name>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) when: When,
    /// Its line in the supervisor's books, while it has one.
    pub(crate) key: Option<Key>,
    /// Its place in the order added.
    pub(crate) index: u32,
    /// When it was added, if that was after the release.
    pub(crate) added: Option<Instant>,
    pub(crate) started: Option<Instant>,
    pub(crate) begun: bool,
    /// Whether its work is a function that blocks.
    pub(crate) blocking: bool,
    /// Whether what the user gave as its work was dropped, or taken to be run.
    pub(crate) cleared: bool,
    /// Whether its response was still open when it was released.
    pub(crate) unfinished: bool,
    pub(crate) span: Option<Span>,
    /// The next task, while this one is in a queue.
    pub(crate) link: Option<Task>,
}

impl Task {
    /// A task that runs a future.
    ///
    /// What the future is made of is made now: a `tokio::time::sleep(..)` counts from here, and one inside of an `async` block
    /// from the task's start.
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
        Self::of(FutureWork::new(future))
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
        Self::of(ContextWork::new(function))
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
        Self::of(FunctionWork::new(function))
    }

    fn of(work: impl Work + 'static) -> Self {
        let header = Header { blocking: work.is_blocking(), ..Header::default() };
        Self { entry: Box::pin(Entry { header, work }) }
    }

    pub(crate) fn header(&self) -> &Header {
        &self.entry.header
    }

    pub(crate) fn header_mut(&mut self) -> &mut Header {
        self.entry.as_mut().project().header
    }

    /// Runs `f` in the task's span, if it has one.
    pub(crate) fn in_span<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.header().span {
            Some(span) => span.in_scope(f),
            None => f(),
        }
    }

    /// Drops what the user gave, each where its panic goes no further: a second one in the same drop would abort the process.
    pub(crate) fn discard(&mut self) {
        let (header, work) = self.parts_mut();
        let name = header.name.as_ref();
        if !std::mem::replace(&mut header.cleared, true) {
            discard(name, || work.clear());
        }
        if matches!(header.when, When::Matches(_)) {
            let when = std::mem::take(&mut header.when);
            discard(name, || drop(when));
        }
    }

    pub(crate) fn is_discarded(&self) -> bool {
        self.header().cleared && !matches!(self.header().when, When::Matches(_))
    }

    /// The header and the work.
    pub(crate) fn parts_mut(&mut self) -> (&mut Header, Pin<&mut (dyn Work + 'static)>) {
        let entry = self.entry.as_mut().project();
        (entry.header, entry.work)
    }

    /// Names the task, for logs and figures, and for [`BackgroundTasks::remove`](crate::BackgroundTasks::remove). Names need
    /// not be unique.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.header_mut().name = Some(Name::from(name.into()));
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
        self.header_mut().timeout = Some(timeout);
        self
    }

    /// Runs the task only after such an end of the response; without a call of this, after any response.
    pub fn when(mut self, when: When) -> Self {
        self.header_mut().when = when;
        self
    }

    /// The task's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.header().name.as_ref().map(Name::as_str)
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
            .field("name", &self.name())
            .field("timeout", &self.header().timeout)
            .field("when", &self.header().when)
            .finish_non_exhaustive()
    }
}
