//! [`Outcome`]: how a task ended.

use std::fmt;

use crate::{
    error::BoxError,
    util::{catch, drop_and_log},
};

/// How a task ended. Every task has exactly one outcome.
///
/// # Examples
///
/// ```
/// use tower_background::Outcome;
///
/// assert!(Outcome::Panicked("index out of bounds".to_owned()).is_failure());
/// assert!(!Outcome::Skipped.is_failure());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The task returned `()` or `Ok(())`.
    Succeeded,
    /// The task returned this error.
    Failed(BoxError),
    /// The task panicked with this message.
    Panicked(String),
    /// The task ran longer than its timeout.
    TimedOut,
    /// The task was stopped before it returned: by a [shutdown](crate::Supervisor::shutdown), by its
    /// [handle](crate::TaskHandle), or because its runtime was shut down. Its future was dropped. A
    /// blocking function may still run.
    Aborted,
    /// The task was [removed](crate::BackgroundTasks::remove) before it started.
    Removed,
    /// The task did not start: its condition did not hold, another task had the same
    /// [unique](crate::Task::unique) key, or an earlier task failed under
    /// [`Order::FailFast`](crate::Order::FailFast).
    Skipped,
    /// The [shutdown fallback](crate::Task::shutdown_fallback) of the task ran in its place, and
    /// succeeded.
    FellBack,
}

impl Outcome {
    /// Returns whether the task ran and did not end well: it failed, panicked or timed out.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_) | Self::TimedOut)
    }

    /// Returns the word for the outcome in logs and metrics, such as `timed_out`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut => "timed_out",
            Self::Aborted => "aborted",
            Self::Removed => "removed",
            Self::Skipped => "skipped",
            Self::FellBack => "fell_back",
        }
    }

    /// Returns the text of the error or of the panic.
    pub(crate) fn error_text(&self) -> Option<String> {
        match self {
            Self::Failed(error) => Some(
                catch(|| error.to_string())
                    .unwrap_or_else(|panic| format!("an error whose message panicked: {panic}")),
            ),
            Self::Panicked(message) => Some(message.clone()),
            _ => None,
        }
    }

    /// Returns a copy. An error cannot be cloned, so the copy only has its text.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Succeeded => Self::Succeeded,
            Self::Failed(_) => Self::Failed(self.error_text().unwrap_or_default().into()),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::TimedOut => Self::TimedOut,
            Self::Aborted => Self::Aborted,
            Self::Removed => Self::Removed,
            Self::Skipped => Self::Skipped,
            Self::FellBack => Self::FellBack,
        }
    }

    /// Drops the error of the task, whose `Drop` may panic.
    #[inline]
    pub(crate) fn discard(self) {
        if let Self::Failed(error) = self {
            discard(error);
        }
    }
}

#[cold]
fn discard(error: BoxError) {
    drop_and_log("the error of a task", error);
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::FellBack => f.write_str("fell back"),
            other => f.write_str(other.label()),
        }
    }
}
