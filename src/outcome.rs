//! [`Outcome`]: how a task ended.

use std::fmt;

use crate::error::BoxError;

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
    /// It did not start, as the supervisor is closed.
    Refused,
}

impl Outcome {
    /// Whether the task was to run and did not end well: it failed, panicked or timed out.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_) | Self::TimedOut)
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
