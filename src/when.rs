//! [`When`]: after which ends of a response a task runs.

use std::{fmt, sync::Arc};

use crate::{
    end::{End, ResponseEnd},
    exchange::Exchange,
};

/// The condition under which a task runs, judged when it is released.
///
/// | end of the response | `Responded` | `Complete` | `Success` | `Always` |
/// |---|---|---|---|---|
/// | [`End::Complete`], status below 400, gRPC status 0 or absent | runs | runs | runs | runs |
/// | [`End::Complete`], any other status | runs | runs | | runs |
/// | [`End::Aborted`], [`End::BodyError`], [`End::Unfinished`] | runs | | | runs |
/// | [`End::Panicked`] in the body | runs | | | runs |
/// | [`End::ServiceError`], [`End::Cancelled`], [`End::Panicked`] before the head | | | | runs |
///
/// A task that does not run is counted as skipped.
///
/// # Examples
///
/// ```
/// use tower_background::{Task, When};
///
/// let receipt = Task::new(async { println!("sent") }).when(When::Success);
/// let large = Task::new(async { println!("large") }).when(When::matches(|end| end.bytes() > 1_000_000));
/// # drop((receipt, large));
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum When {
    /// There was a response, also if the client then went away.
    #[default]
    Responded,
    /// The response is complete.
    Complete,
    /// The response is complete, its status below 400, and its gRPC status 0 or absent.
    Success,
    /// In any case, also when the service failed, was cancelled or panicked.
    Always,
    /// The function says so. It runs where tasks run, and a panic in it is the task's.
    Matches(Arc<dyn Fn(&ResponseEnd) -> bool + Send + Sync>),
}

/// What [`When::Matches`] asks.
type Condition = dyn Fn(&ResponseEnd) -> bool + Send + Sync;

impl When {
    /// Runs the task if `condition` holds for the end of the response.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{End, When};
    ///
    /// let client_left = When::matches(|end| end.kind() == End::Aborted);
    /// # drop(client_left);
    /// ```
    pub fn matches(condition: impl Fn(&ResponseEnd) -> bool + Send + Sync + 'static) -> Self {
        Self::Matches(Arc::new(condition))
    }

    /// Judges by what is known at the end, or at an earlier release. Who has a function of their own is to ask that.
    #[inline]
    pub(crate) fn holds(&self, exchange: &Exchange, unfinished: bool) -> Result<bool, &Condition> {
        match self {
            Self::Responded => Ok(exchange.has_head(unfinished)),
            Self::Complete => Ok(exchange.ended(unfinished).kind == End::Complete),
            Self::Success => Ok(exchange.is_success(unfinished)),
            Self::Always => Ok(true),
            Self::Matches(condition) => Err(&**condition),
        }
    }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Responded => "Responded",
            Self::Complete => "Complete",
            Self::Success => "Success",
            Self::Always => "Always",
            Self::Matches(_) => "Matches(..)",
        })
    }
}
