//! What a handler gets and gives: [`JobContext`] and [`JobError`].

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError,
    message::{Headers, Message},
};

/// What a handler knows about the job that it runs, beside the job itself.
#[derive(Clone, Debug)]
pub struct JobContext {
    id: i64,
    queue: String,
    attempt: u32,
    max_attempts: u32,
    enqueued_at: SystemTime,
    headers: Headers,
    token: CancellationToken,
}

impl JobContext {
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    pub(crate) fn new(
        message: &Message,
        queue: &str,
        max_attempts: u32,
        token: CancellationToken,
    ) -> Self {
        Self {
            id: message.claim.id,
            queue: queue.to_owned(),
            attempt: message.attempt(),
            max_attempts,
            enqueued_at: message.enqueued_at,
            headers: message.headers.clone(),
            token,
        }
    }

    /// Returns the id that the push returned. It is the same in each attempt.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Returns which attempt this is. The first is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether the job is archived if this attempt fails.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// Returns when the job was pushed.
    #[must_use]
    pub fn enqueued_at(&self) -> SystemTime {
        self.enqueued_at
    }

    /// Returns the headers of the push, and those of the worker.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the text of a header, such as `traceparent`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(Value::as_str)
    }

    /// Whether the worker stops, or another worker has taken the job.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the worker stops, or another worker has taken the job.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }
}

/// Why a job is not done, and what becomes of it.
///
/// Any error becomes one by `?`: the job runs again after a backoff.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background_jobs::JobError;
///
/// fn answer(status: u16) -> Result<(), JobError> {
///     match status {
///         200 => Ok(()),
///         429 => Err(JobError::retry_in(Duration::from_secs(60), "too many requests")),
///         410 => Err(JobError::give_up("the address is gone")),
///         _ => Err("the server refused".into()),
///     }
/// }
/// # assert!(answer(200).is_ok());
/// # assert!(answer(500).is_err());
/// ```
pub struct JobError {
    pub(crate) source: BoxError,
    pub(crate) then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Again after a backoff.
    Retry,
    /// Again after this time.
    RetryIn(Duration),
    /// Never again.
    GiveUp,
    /// Again after this time, and this was no attempt.
    Snooze(Duration),
}

impl JobError {
    /// Runs the job again after `delay`, unless this was its last attempt.
    pub fn retry_in(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self {
            source: error.into(),
            then: Then::RetryIn(delay),
        }
    }

    /// Runs the job again at `time`, unless this was its last attempt.
    pub fn retry_at(time: SystemTime, error: impl Into<BoxError>) -> Self {
        let delay = time.duration_since(SystemTime::now()).unwrap_or_default();
        Self::retry_in(delay, error)
    }

    /// Archives the job at once.
    pub fn give_up(error: impl Into<BoxError>) -> Self {
        Self {
            source: error.into(),
            then: Then::GiveUp,
        }
    }

    /// Runs the job again after `delay`. This was no attempt, and no failure.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self {
            source: "snoozed".into(),
            then: Then::Snooze(delay),
        }
    }
}

impl<E: Into<BoxError>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self {
            source: error.into(),
            then: Then::Retry,
        }
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobError")
            .field("source", &self.source)
            .field("then", &self.then)
            .finish()
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An error often hides its cause: tell all of them.
        write!(f, "{}", self.source)?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
