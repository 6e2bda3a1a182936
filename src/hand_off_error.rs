//! [`HandOffError`]: why a job was not written before the head of its response.

use std::{error::Error, fmt, sync::Arc};

use crate::{name::Name, outcome::Outcome, refusal::Refusal};

/// A job was not written before the head of its response, which so must not tell of success.
///
/// Its [`source`](Error::source) is the destination's error, if that returned one: a `tower::load_shed::error::Overloaded` or
/// the error of a database can be told apart by it.
///
/// # Examples
///
/// ```
/// use http::{Response, StatusCode};
/// use tower_background::HandOffError;
///
/// fn answer(error: HandOffError) -> Response<String> {
///     let mut response = Response::new(error.to_string());
///     *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///     response
/// }
/// # let _ = answer;
/// ```
#[derive(Debug, Clone)]
pub struct HandOffError {
    name: Option<Name>,
    reason: Reason,
}

#[derive(Debug, Clone)]
enum Reason {
    Failed(SharedError),
    Ended(String),
}

impl HandOffError {
    /// What the outcome of a job means for the head that waits for it.
    pub(crate) fn of(name: Option<&Name>, outcome: &Outcome) -> Result<(), Self> {
        let reason = match outcome {
            Outcome::Succeeded | Outcome::HandedOff | Outcome::Skipped => return Ok(()),
            Outcome::Failed(error) => match error.downcast_ref::<SharedError>() {
                Some(shared) => Reason::Failed(shared.clone()),
                None => Reason::Ended("failed".to_owned()),
            },
            ended => Reason::Ended(ended.to_string()),
        };
        Err(Self { name: name.cloned(), reason })
    }

    /// A job that was not even taken.
    pub(crate) fn refused(name: Option<Name>, why: Refusal) -> Self {
        Self { name, reason: Reason::Ended(format!("refused: {why}")) }
    }

    /// The name of the task that was to write the job, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Name::as_str)
    }
}

impl fmt::Display for HandOffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job was not handed off")?;
        match &self.reason {
            // The destination's own words are the source's to tell: they may be of no concern to a client.
            Reason::Failed(_) => f.write_str(": its destination failed"),
            Reason::Ended(how) => write!(f, ": {how}"),
        }
    }
}

impl Error for HandOffError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Reason::Failed(error) => Some(&*error.0),
            Reason::Ended(_) => None,
        }
    }
}

/// A destination's error, which both the head and the observers are told.
#[derive(Debug, Clone)]
pub(crate) struct SharedError(pub(crate) Arc<dyn Error + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
