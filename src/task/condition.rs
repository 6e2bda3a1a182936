//! [`When`]: after which ends of the response a task runs.

use std::{fmt, sync::Arc};

use crate::response::ResponseEnd;

/// The condition under which a task runs. It is judged when the tasks of the request start.
///
/// | end of the response | [`Responded`](Self::Responded) | [`Success`](Self::Success) | [`Complete`](Self::Complete) | [`Delivered`](Self::Delivered) | [`Always`](Self::Always) |
/// |---|---|---|---|---|---|
/// | complete, status below 400, gRPC status 0 or absent | runs | runs | runs | runs | runs |
/// | complete, any other status | runs | | runs | | runs |
/// | interrupted or unfinished, status below 400 | runs | runs | | | runs |
/// | interrupted or unfinished, any other status | runs | | | | runs |
/// | failed, or panicked in the body | runs | | | | runs |
/// | service error, no response, or panicked before the head | | | | | runs |
///
/// A gRPC response that ended without its trailers is no success. A task whose condition does not
/// hold is counted as [`Outcome::Skipped`](crate::Outcome::Skipped).
///
/// `When` is not `Copy`, because [`Matches`](Self::Matches) owns a function. To use one condition
/// for several tasks, clone it.
///
/// # Examples
///
/// ```
/// use tower_background::{Task, When};
///
/// let receipt = Task::new(async { println!("sent") }).when(When::Success);
///
/// let is_large = When::matches(|end| end.bytes() > 1_000_000);
/// let large = Task::new(async { println!("large") }).when(is_large);
/// # drop((receipt, large));
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum When {
    /// The service returned a response, whatever its status, even if the client left after that. A
    /// client that leaves *before* the head gets no response, so the task is skipped.
    #[default]
    Responded,
    /// The response is a success, even if the client left before its end: see
    /// [`ResponseEnd::is_success`].
    Success,
    /// The response is complete: see [`EndKind::Complete`](crate::EndKind::Complete).
    Complete,
    /// The response is complete and a success.
    Delivered,
    /// Always, even if the service failed or panicked, or its future was dropped before the head.
    Always,
    /// The function returns `true`. It runs where tasks run. If it panics, the task counts as
    /// panicked.
    Matches(Arc<dyn Fn(&ResponseEnd) -> bool + Send + Sync>),
}

impl When {
    /// Runs the task if `condition` returns `true` for the end of the response.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{EndKind, When};
    ///
    /// let client_left = When::matches(|end| end.kind() == EndKind::Interrupted);
    /// # drop(client_left);
    /// ```
    pub fn matches(condition: impl Fn(&ResponseEnd) -> bool + Send + Sync + 'static) -> Self {
        Self::Matches(Arc::new(condition))
    }

    /// Returns whether the condition holds. A function may panic.
    pub(crate) fn holds(&self, end: &ResponseEnd) -> bool {
        match self {
            Self::Responded => end.status().is_some(),
            Self::Success => end.is_success(),
            Self::Complete => end.is_complete(),
            Self::Delivered => end.is_complete() && end.is_success(),
            Self::Always => true,
            Self::Matches(function) => function(end),
        }
    }

    /// Returns whether the condition certainly holds, if it is only known whether the service has
    /// returned a response.
    #[inline]
    pub(crate) const fn holds_after(&self, has_responded: bool) -> bool {
        match self {
            Self::Responded => has_responded,
            Self::Always => true,
            Self::Success | Self::Complete | Self::Delivered | Self::Matches(_) => false,
        }
    }

    /// Returns whether an open response decides the condition by its head: either the condition
    /// holds by the head, or it cannot hold at the end.
    pub(crate) fn is_decided(&self, unfinished: &ResponseEnd) -> bool {
        match self {
            Self::Responded | Self::Always => self.holds(unfinished),
            Self::Success => self.holds(unfinished) || has_error_status(unfinished),
            Self::Delivered => has_error_status(unfinished),
            Self::Complete | Self::Matches(_) => false,
        }
    }
}

fn has_error_status(end: &ResponseEnd) -> bool {
    end.status().is_some_and(|status| status.as_u16() >= 400)
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Responded => "Responded",
            Self::Success => "Success",
            Self::Complete => "Complete",
            Self::Delivered => "Delivered",
            Self::Always => "Always",
            Self::Matches(_) => "Matches(..)",
        })
    }
}
