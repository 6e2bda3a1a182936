//! What is told of tasks: while they are alive, when they have ended, and when all of a request's have.

use std::{error::Error, fmt, time::Duration};

use http::{Method, uri::PathAndQuery};

use crate::{end::ResponseEnd, name::Name, outcome::Outcome};

/// Where a task stands that has not ended.
///
/// # Examples
///
/// ```
/// use tower_background::{Supervisor, TaskState};
///
/// let supervisor = Supervisor::new();
/// let running = supervisor.running();
/// assert!(!running.iter().any(|task| task.state() == TaskState::Running));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskState {
    /// Its response is not over.
    Collected,
    /// It was released and has not started: its turn, or a place, has not come.
    Waiting,
    /// It has started.
    Running,
}

/// A task that has not ended.
///
/// # Examples
///
/// ```
/// use tower_background::Supervisor;
///
/// for task in Supervisor::new().running() {
///     println!("{:?} of {} {} for {:?}: {:?}", task.name(), task.method(), task.path(), task.age(), task.state());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct RunningTask {
    pub(crate) name: Option<Name>,
    pub(crate) method: Method,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) age: Duration,
    pub(crate) state: TaskState,
}

impl RunningTask {
    /// The task's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Name::as_str)
    }

    /// The method of the request that left the task.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.method
    }

    /// The path of the request that left the task, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// The time since the task was released, or since its request came while it is collected.
    #[must_use]
    pub const fn age(&self) -> Duration {
        self.age
    }

    /// Where the task stands.
    #[must_use]
    pub const fn state(&self) -> TaskState {
        self.state
    }
}

/// How one task ended.
///
/// # Examples
///
/// ```
/// use tower_background::{Observer, TaskReport};
///
/// struct Slow;
///
/// impl Observer for Slow {
///     fn task_ended(&self, report: &TaskReport) {
///         if report.ran().is_some_and(|ran| ran.as_secs() > 10) {
///             println!("{:?} took long: {:?}", report.name(), report.ran());
///         }
///     }
/// }
/// # let _ = Slow;
/// ```
#[derive(Debug)]
pub struct TaskReport {
    pub(crate) name: Option<Name>,
    pub(crate) outcome: Outcome,
    pub(crate) waited: Duration,
    pub(crate) ran: Option<Duration>,
    pub(crate) end: Option<ResponseEnd>,
}

impl TaskReport {
    /// The task's name, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Name::as_str)
    }

    /// How the task ended.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The time between the task's release and its start, or its end if it never started.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// The time between the task's start and its end, if it started.
    #[must_use]
    pub const fn ran(&self) -> Option<Duration> {
        self.ran
    }

    /// How the response was over. `None` for a task that was refused or taken back before it was.
    #[must_use]
    pub const fn end(&self) -> Option<&ResponseEnd> {
        self.end.as_ref()
    }
}

/// How all the tasks of one request ended.
///
/// As an error it lists the failures, and the first is its source.
///
/// Tasks that were added before the last one ended are of the same batch; later ones make another.
///
/// # Examples
///
/// ```
/// use tower_background::{BatchReport, Observer};
///
/// struct Failures;
///
/// impl Observer for Failures {
///     fn batch_ended(&self, report: &BatchReport) {
///         if report.failures().next().is_some() {
///             println!("{} {}: {report}", report.end().method(), report.end().path());
///         }
///     }
/// }
/// # let _ = Failures;
/// ```
#[derive(Debug)]
pub struct BatchReport {
    pub(crate) end: ResponseEnd,
    pub(crate) tasks: Vec<TaskReport>,
}

impl BatchReport {
    /// How the response was over.
    #[must_use]
    pub const fn end(&self) -> &ResponseEnd {
        &self.end
    }

    /// The tasks, in the order added.
    #[must_use]
    pub fn tasks(&self) -> &[TaskReport] {
        &self.tasks
    }

    /// The tasks that failed, panicked or timed out, in the order added.
    pub fn failures(&self) -> impl Iterator<Item = &TaskReport> {
        self.tasks.iter().filter(|task| task.outcome().is_failure())
    }
}

impl fmt::Display for BatchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} tasks failed", self.failures().count(), self.tasks.len())?;
        for (index, task) in self.failures().enumerate() {
            let mark = if index == 0 { ": " } else { "; " };
            write!(f, "{mark}{} {}", task.name().unwrap_or("a task"), task.outcome())?;
        }
        Ok(())
    }
}

impl Error for BatchReport {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.failures().find_map(|task| match task.outcome() {
            Outcome::Failed(error) => Some(&**error as _),
            _ => None,
        })
    }
}
