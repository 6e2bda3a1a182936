//! Events for `tracing`. Without the feature `tracing` every function here does nothing.

use super::{request_fields::RequestFields, span::TaskSpan};

/// Emits an event with the target `tower_background`.
///
/// A subscriber is code of the user, and may panic. Such a panic is dropped, because to log it
/// would call the subscriber again.
#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, { $($field:ident = $value:expr),* $(,)? }, $message:expr) => {{
        let event = || tracing::$level!(target: "tower_background", $($field = $value,)* $message);
        let _ = crate::util::panic::catch(event);
    }};
    ($level:ident, $message:ident) => {{
        let event = || tracing::$level!(target: "tower_background", "{}", $message);
        let _ = crate::util::panic::catch(event);
    }};
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($level:ident, { $($field:ident = $value:expr),* $(,)? }, $message:expr) => {{
        let _ = ($(&$value,)* $message);
    }};
    ($level:ident, $message:ident) => {{
        let _ = $message;
    }};
}

/// The level of an event that says how a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Debug,
    Warn,
    Error,
}

impl Level {
    /// Returns whether a subscriber could want events of this level.
    pub(crate) fn is_wanted(self) -> bool {
        match self {
            Self::Debug => is_enabled(Self::Debug),
            // With the feature `log` of `tracing`, a logger gets events without a subscriber.
            Self::Warn | Self::Error => cfg!(feature = "tracing"),
        }
    }
}

/// Returns whether a subscriber could want request ids.
pub(crate) fn ids_are_wanted() -> bool {
    is_enabled(Level::Error)
}

#[cfg(feature = "tracing")]
fn is_enabled(level: Level) -> bool {
    use tracing::level_filters::LevelFilter;

    LevelFilter::current()
        >= match level {
            Level::Debug => LevelFilter::DEBUG,
            Level::Warn => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
        }
}

#[cfg(not(feature = "tracing"))]
const fn is_enabled(_level: Level) -> bool {
    false
}

/// Logs that a task starts.
pub(crate) fn start(span: &TaskSpan) {
    span.in_scope(|| event!(debug, {}, "a task started"));
}

/// Logs how a task ended. The span of a task has its name, its request and its outcome, so events
/// inside the span do not repeat them.
pub(crate) fn task_ended(
    level: Level,
    span: Option<&TaskSpan>,
    name: Option<&str>,
    request: RequestFields<'_>,
    outcome: &'static str,
    error: Option<&str>,
) {
    macro_rules! task_event {
        ($level:ident, $message:literal) => {
            match span {
                Some(span) => span.in_scope(|| {
                    event!($level, { error = error }, $message);
                }),
                None => event!(
                    $level,
                    {
                        task = name,
                        method = request.method,
                        path = request.path,
                        request_id = request.id,
                        outcome = outcome,
                        error = error,
                    },
                    $message
                ),
            }
        };
    }
    if let Some(span) = span {
        span.record_outcome(outcome);
    }
    match level {
        Level::Debug => task_event!(debug, "a background task ended"),
        Level::Warn => task_event!(warn, "a background task did not finish"),
        Level::Error => task_event!(error, "a background task failed"),
    }
}

/// Logs that a task was refused.
pub(crate) fn refused(name: Option<&str>, request: RequestFields<'_>) {
    event!(
        error,
        {
            task = name,
            method = request.method,
            path = request.path,
            request_id = request.id,
        },
        "a background task was refused and dropped: its supervisor was shut down; call `shutdown` \
         after the server has stopped, or give the task a `shutdown_fallback`"
    );
}

/// Logs a panic that this crate has caught.
pub(super) fn caught_panic(what: &'static str, message: &str) {
    event!(error, { what = what, panic = message }, "a panic was caught");
}

/// Logs why a client gets an internal error.
#[cfg(any(feature = "axum", feature = "tonic"))]
pub(crate) fn misconfigured(method: Option<&str>, path: Option<&str>, error: &str) {
    event!(
        error,
        { method = method, path = path, error = error },
        "the client gets an internal error, because a task could not be added"
    );
}

/// Logs that two layers with different supervisors wrap one request.
pub(crate) fn two_supervisors(path: &str) {
    event!(
        warn,
        { path = path },
        "two `BackgroundLayer`s with different supervisors wrap this request: its handler adds \
         tasks to the inner one, which the outer supervisor neither limits nor awaits; build both \
         layers with the same supervisor, by `BackgroundLayer::with_supervisor`"
    );
}

/// Logs that tasks wait for the last byte on a connection that is not tracked.
pub(crate) fn untracked(path: &str) {
    event!(
        warn,
        { path = path },
        "tasks should start when the last byte is sent, but this connection is not tracked; they \
         started when the body was dropped"
    );
}

/// Logs that a shutdown did not wait for everything.
pub(crate) fn shutdown_incomplete(message: &str) {
    event!(warn, message);
}
