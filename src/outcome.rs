//! [`Outcome`]: how a task ended.

use std::fmt;

use crate::{
    error::BoxError,
    name::Name,
    panics::{caught, quietly},
    stats::Stats,
    work::WorkResult,
};

/// How a task ended. Every task that was added ends in exactly one of these ways.
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
    /// It returned `()` or `Ok(())`.
    Succeeded,
    /// It returned this error.
    Failed(BoxError),
    /// It panicked, with this message.
    Panicked(String),
    /// It ran longer than its timeout.
    TimedOut,
    /// It was taken back, or dropped before its end.
    Cancelled,
    /// It did not start, as its condition did not hold.
    Skipped,
    /// It was not taken: the supervisor is closed.
    Refused,
}

impl Outcome {
    /// Whether the task was to run and did not end well: it failed, panicked or timed out.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_) | Self::TimedOut)
    }

    /// The outcome in one word, as logs and metrics have it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
            Self::Refused => "refused",
        }
    }
}

/// Where an outcome is counted.
pub(crate) type Figure = fn(&mut Stats) -> &mut u64;

impl Outcome {
    /// What the work of a task came to; an error of ours is a panic's message.
    #[inline]
    pub(crate) fn of(result: Result<WorkResult, String>) -> Self {
        match result {
            Ok(Ok(())) => Self::Succeeded,
            Ok(Err(error)) => Self::Failed(error),
            Err(message) => Self::Panicked(message),
        }
    }

    pub(crate) fn figure(&self) -> Figure {
        match self {
            Self::Succeeded => |stats| &mut stats.succeeded,
            Self::Failed(_) => |stats| &mut stats.failed,
            Self::Panicked(_) => |stats| &mut stats.panicked,
            Self::TimedOut => |stats| &mut stats.timed_out,
            Self::Cancelled => |stats| &mut stats.cancelled,
            Self::Skipped => |stats| &mut stats.skipped,
            Self::Refused => |stats| &mut stats.refused,
        }
    }

    /// Drops the error of a task, which may panic.
    #[inline]
    pub(crate) fn discard(self) {
        if matches!(self, Self::Failed(_)) {
            quietly("a task's error", || drop(self));
        }
    }

    /// Logs how a task ended, under its name and its request's path.
    pub(crate) fn log(&self, name: Option<&Name>, path: &str) {
        let task = name.map_or("", Name::as_str);
        match self {
            Self::Succeeded => crate::log::debug!(task = task, path = path, "a task succeeded"),
            Self::Skipped => crate::log::debug!(task = task, path = path, "a task was skipped: its condition did not hold"),
            // Told with its reason, by whoever refuses it.
            Self::Refused => {}
            Self::Cancelled => crate::log::warn!(task = task, path = path, "a task was cancelled before its end"),
            Self::TimedOut => crate::log::error!(task = task, path = path, "a task ran longer than its timeout"),
            Self::Failed(error) => {
                // Here and not in the subscriber, as that is no place for a panic of the error's own.
                let error =
                    caught(|| error.to_string()).unwrap_or_else(|panic| format!("an error whose message panicked: {panic}"));
                crate::log::error!(task = task, path = path, error = %error, "a task failed");
            }
            Self::Panicked(message) => crate::log::error!(task = task, path = path, panic = %message, "a task panicked"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Skipped => f.write_str("skipped"),
            Self::Refused => f.write_str("refused"),
        }
    }
}
