//! What the supervisor says about tasks: plain, owned data.

use std::{borrow::Cow, error::Error, fmt, sync::Arc, time::Duration};

use http::Method;
use tokio::time::Instant;

use super::{stats::Stats, task_state::TaskState};
use crate::{
    response::{RequestInfo, ResponseEnd},
    task::{Name, Outcome},
};

/// A task that has not ended.
///
/// # Examples
///
/// ```
/// use tower_background::Supervisor;
///
/// for task in Supervisor::new().tasks() {
///     println!("{:?} of {:?}: {:?} for {:?}", task.name(), task.path(), task.state(), task.age());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct TaskInfo {
    pub(super) name: Option<Name>,
    pub(super) request: Option<RequestInfo>,
    pub(super) state: TaskState,
    pub(super) age: Duration,
}

impl TaskInfo {
    pub(super) fn new(
        name: Option<Name>,
        request: Option<RequestInfo>,
        state: TaskState,
        since: Option<Instant>,
        now: Instant,
    ) -> Self {
        let since = since.or_else(|| request.as_ref().map(RequestInfo::started));
        Self {
            name,
            request,
            state,
            age: since
                .map(|since| now.saturating_duration_since(since))
                .unwrap_or_default(),
        }
    }

    /// Describes work that runs outside a supervisor, for an [`Observer`](crate::Observer) that
    /// sees both.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_background::report::{TaskInfo, TaskState};
    ///
    /// let info = TaskInfo::running("nightly-report", Duration::ZERO);
    /// assert_eq!((info.name(), info.state()), (Some("nightly-report"), TaskState::Running));
    /// ```
    #[must_use]
    pub fn running(name: impl Into<Cow<'static, str>>, age: Duration) -> Self {
        Self {
            name: Some(name.into().into()),
            request: None,
            state: TaskState::Running,
            age,
        }
    }

    /// Returns the name of the task, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the method of the request that left the task. `None` for a task without a request.
    #[must_use]
    pub fn method(&self) -> Option<&Method> {
        self.request.as_ref().map(RequestInfo::method)
    }

    /// Returns the path of the request that left the task, without the query, cut at 1 KiB. `None`
    /// for a task without a request.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.request.as_ref().map(RequestInfo::path)
    }

    /// Returns the state of the task.
    #[must_use]
    pub const fn state(&self) -> TaskState {
        self.state
    }

    /// Returns the age of the task: the time since its request arrived while it is deferred, else
    /// the time since it was allowed to run.
    #[must_use]
    pub const fn age(&self) -> Duration {
        self.age
    }
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "`{name}`")?,
            None => f.write_str("a task without a name")?,
        }
        if let (Some(method), Some(path)) = (self.method(), self.path()) {
            write!(f, " of {method} {path}")?;
        }
        match self.state {
            TaskState::Deferred => f.write_str(", whose response is open"),
            TaskState::Queued => f.write_str(", which waits to run"),
            TaskState::Running => f.write_str(", which runs"),
        }
    }
}

/// How one task ended.
///
/// # Examples
///
/// ```
/// use tower_background::{Observer, report::TaskReport};
///
/// struct Slow;
///
/// impl Observer for Slow {
///     fn on_task_end(&self, report: &TaskReport) {
///         if report.ran().is_some_and(|ran| ran.as_secs() > 10) {
///             println!("{:?} took long: {:?}", report.name(), report.ran());
///         }
///     }
/// }
/// # let _ = Slow;
/// ```
#[derive(Debug)]
pub struct TaskReport {
    pub(super) name: Option<Name>,
    pub(super) outcome: Outcome,
    pub(super) waited: Duration,
    pub(super) ran: Option<Duration>,
    pub(super) end: Option<Arc<ResponseEnd>>,
}

impl TaskReport {
    /// Reports work that ran outside a supervisor, for an [`Observer`](crate::Observer) that sees
    /// both. `ran` is `None` if the work did not start.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_background::{Outcome, report::TaskReport};
    ///
    /// let ran = Duration::from_secs(2);
    /// let report = TaskReport::new("nightly-report", Outcome::Succeeded, Duration::ZERO, Some(ran));
    /// assert_eq!((report.name(), report.ran()), (Some("nightly-report"), Some(ran)));
    /// assert!(report.end().is_none());
    /// ```
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        outcome: Outcome,
        waited: Duration,
        ran: Option<Duration>,
    ) -> Self {
        Self {
            name: Some(name.into().into()),
            outcome,
            waited,
            ran,
            end: None,
        }
    }

    /// Returns the name of the task, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns how the task ended.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns how long the task waited after it was allowed to run, until it ran or ended.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Returns how long the task ran, if it ran.
    #[must_use]
    pub const fn ran(&self) -> Option<Duration> {
        self.ran
    }

    /// Returns how the response ended. For a task that started early, this is what was known then, of
    /// the kind [`EndKind::Unfinished`](crate::EndKind::Unfinished). `None` for a task that ended
    /// before it was allowed to start, and for a task without a request.
    #[must_use]
    pub fn end(&self) -> Option<&ResponseEnd> {
        self.end.as_deref()
    }
}

/// Each error is dropped on its own. Two that panic in the drop of one list would abort the
/// process.
impl Drop for TaskReport {
    fn drop(&mut self) {
        std::mem::replace(&mut self.outcome, Outcome::Skipped).discard();
    }
}

/// How the tasks of one request ended: the number of tasks for each outcome, and the first
/// failures.
///
/// As an error it lists the failures, and its source is the first error.
///
/// # Examples
///
/// ```
/// use tower_background::{Observer, report::RequestReport};
///
/// struct Failures;
///
/// impl Observer for Failures {
///     fn on_request_done(&self, report: &RequestReport) {
///         if !report.failures().is_empty() {
///             println!("{report}");
///         }
///     }
/// }
/// # let _ = Failures;
/// ```
#[derive(Debug)]
pub struct RequestReport {
    pub(super) end: Option<Arc<ResponseEnd>>,
    pub(super) stats: Stats,
    pub(super) failures: Vec<TaskReport>,
}

impl RequestReport {
    /// So many failures are kept; the others are only counted.
    pub(super) const MAX_FAILURES: usize = 100;

    /// Returns how the response ended. `None` for tasks without a request.
    #[must_use]
    pub fn end(&self) -> Option<&ResponseEnd> {
        self.end.as_deref()
    }

    /// Returns how many tasks the request had, and how many of them had each outcome. If tasks are
    /// added after a report, the next report counts only these.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the first 100 tasks that failed, panicked or timed out, in the order in which they
    /// ended.
    #[must_use]
    pub fn failures(&self) -> &[TaskReport] {
        &self.failures
    }

    /// Returns how many further tasks failed.
    #[must_use]
    pub fn more_failures(&self) -> u64 {
        let failures = self.stats.failed + self.stats.panicked + self.stats.timed_out;
        failures - self.failures.len() as u64
    }
}

impl fmt::Display for RequestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures = self.failures.len() as u64 + self.more_failures();
        write!(f, "{failures} of {} tasks failed", self.stats.ended())?;
        if let Some(end) = self.end() {
            write!(f, " after {} {}", end.method(), end.path())?;
        }
        for (index, task) in self.failures.iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            write!(
                f,
                "{separator}{} {}",
                task.name().unwrap_or("a task"),
                task.outcome()
            )?;
        }
        if self.more_failures() > 0 {
            write!(f, "; and {} more", self.more_failures())?;
        }
        Ok(())
    }
}

impl Error for RequestReport {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failures.iter().find_map(|task| match task.outcome() {
            Outcome::Failed(error) => Some(&**error as _),
            _ => None,
        })
    }
}

/// What became of the tasks of a supervisor when it was shut down.
///
/// `Display` prints it in one line. If the shutdown was not [clean](Self::is_clean), a WARN event
/// has said so before.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use tower_background::Supervisor;
///
/// let report = Supervisor::new().shutdown(Duration::from_secs(10)).await;
/// for task in report.abandoned() {
///     eprintln!("{task} was aborted after {:?}", task.age());
/// }
/// assert!(report.is_clean());
/// assert_eq!(report.to_string(), "clean shutdown, tasks finished in the grace: 0");
/// # }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ShutdownReport {
    pub(super) finished: u64,
    pub(super) fell_back: u64,
    pub(super) cancelled: u64,
    pub(super) abandoned: Vec<TaskInfo>,
    pub(super) open_responses: usize,
}

impl ShutdownReport {
    /// Returns whether nothing was cut short: no task was cancelled or aborted, and no response was
    /// open in the end.
    ///
    /// A task whose shutdown fallback succeeded does not make a shutdown unclean, because its work
    /// is not lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cancelled == 0 && self.abandoned.is_empty() && self.open_responses == 0
    }

    /// Returns how many tasks ended within the grace, in whatever way. Tasks that ended before the
    /// call of `shutdown` and tasks that [fell back](Self::fell_back) are not among them.
    #[must_use]
    pub const fn finished(&self) -> u64 {
        self.finished
    }

    /// Returns how many tasks had a [shutdown fallback](crate::Task::shutdown_fallback) that
    /// succeeded in their place.
    #[must_use]
    pub const fn fell_back(&self) -> u64 {
        self.fell_back
    }

    /// Returns how many tasks ended after they were cancelled, and before the rest was aborted. A
    /// task whose shutdown fallback failed then is among them.
    #[must_use]
    pub const fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// Returns the tasks that the shutdown aborted, in the state in which it found them, the oldest
    /// first. A blocking function among them may still run.
    #[must_use]
    pub fn abandoned(&self) -> &[TaskInfo] {
        &self.abandoned
    }

    /// Returns how many responses were still open in the end.
    #[must_use]
    pub const fn open_responses(&self) -> usize {
        self.open_responses
    }

    /// Returns the text of the event that says that the shutdown was not clean.
    pub(super) fn warning(&self) -> String {
        let were = |count: u64, what: &str, how: &str| match count {
            1 => format!("1 {what} was {how}"),
            _ => format!("{count} {what}s were {how}"),
        };
        let abandoned = self.abandoned.len() as u64;
        let responses = self.open_responses as u64;
        format!(
            "the grace was too short: {}, {}, {}{}",
            were(self.cancelled, "task", "cancelled"),
            were(abandoned, "task", "aborted"),
            were(responses, "response", "open"),
            First(": ", &self.abandoned),
        )
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_clean = self.is_clean();
        let how = if is_clean { "clean" } else { "incomplete" };
        write!(
            f,
            "{how} shutdown, tasks finished in the grace: {}",
            self.finished
        )?;
        if self.fell_back > 0 {
            write!(f, ", tasks that fell back: {}", self.fell_back)?;
        }
        if is_clean {
            return Ok(());
        }
        write!(
            f,
            ", cancelled tasks: {}, open responses: {}, aborted tasks: {}",
            self.cancelled,
            self.open_responses,
            self.abandoned.len()
        )?;
        First(" (", &self.abandoned).fmt(f)?;
        f.write_str(if self.abandoned.is_empty() { "" } else { ")" })
    }
}

/// Prints the first tasks, after this text. Prints nothing if there is no task.
struct First<'a>(&'static str, &'a [TaskInfo]);

impl fmt::Display for First<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let Self(before, tasks) = self;
        for (index, task) in tasks.iter().take(SHOWN).enumerate() {
            write!(f, "{}{task}", if index == 0 { before } else { "; " })?;
        }
        if tasks.len() > SHOWN {
            write!(f, "; and {} more", tasks.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// A supervisor was not idle in time: which tasks have not ended, and how many responses are open.
///
/// `Debug` prints the same text as `Display`, so that the panic of `unwrap` is short.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use tower_background::{Supervisor, Task};
///
/// let supervisor = Supervisor::new();
/// supervisor.spawn(Task::new(std::future::pending::<()>()).named("endless")).unwrap();
/// let busy = supervisor.idle_within(Duration::from_secs(1)).await.unwrap_err();
/// assert_eq!(busy.tasks()[0].name(), Some("endless"));
/// # }
/// ```
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Busy {
    pub(super) tasks: Vec<TaskInfo>,
    pub(super) open_responses: usize,
}

impl Busy {
    /// Returns the tasks that have not ended, the oldest first.
    #[must_use]
    pub fn tasks(&self) -> &[TaskInfo] {
        &self.tasks
    }

    /// Returns how many responses are open.
    #[must_use]
    pub const fn open_responses(&self) -> usize {
        self.open_responses
    }
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tasks.len() {
            1 => f.write_str("1 task has not ended")?,
            tasks => write!(f, "{tasks} tasks have not ended")?,
        }
        First(": ", &self.tasks).fmt(f)?;
        if self
            .tasks
            .iter()
            .any(|task| task.state == TaskState::Deferred)
        {
            f.write_str(
                "; tasks start when their response is over: read its body to the end, or drop it",
            )?;
        }
        Ok(())
    }
}

impl Error for Busy {}

#[cfg(feature = "serde")]
mod serialize {
    use serde::{Serialize, Serializer, ser::SerializeStruct};

    use super::{Duration, Method, RequestReport, ResponseEnd, TaskInfo, TaskReport};

    impl Serialize for TaskInfo {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut task = serializer.serialize_struct("TaskInfo", 5)?;
            task.serialize_field("name", &self.name())?;
            task.serialize_field("method", &self.method().map(Method::as_str))?;
            task.serialize_field("path", &self.path())?;
            task.serialize_field("state", &self.state())?;
            task.serialize_field("age_seconds", &self.age().as_secs_f64())?;
            task.end()
        }
    }

    impl Serialize for TaskReport {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut task = serializer.serialize_struct("TaskReport", 5)?;
            task.serialize_field("name", &self.name())?;
            task.serialize_field("outcome", self.outcome().label())?;
            task.serialize_field("error", &self.outcome().error_text())?;
            task.serialize_field("waited_seconds", &self.waited().as_secs_f64())?;
            task.serialize_field(
                "ran_seconds",
                &self.ran().as_ref().map(Duration::as_secs_f64),
            )?;
            task.end()
        }
    }

    impl Serialize for RequestReport {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let end = self.end();
            let mut report = serializer.serialize_struct("RequestReport", 7)?;
            report.serialize_field("method", &end.map(|end| end.method().as_str()))?;
            report.serialize_field("path", &end.map(ResponseEnd::path))?;
            report.serialize_field(
                "status",
                &end.and_then(ResponseEnd::status)
                    .map(|status| status.as_u16()),
            )?;
            report.serialize_field("end", &end.map(ResponseEnd::kind))?;
            report.serialize_field("stats", self.stats())?;
            report.serialize_field("failures", self.failures())?;
            report.serialize_field("more_failures", &self.more_failures())?;
            report.end()
        }
    }
}
