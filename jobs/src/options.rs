//! [`PushOptions`]: when a job starts, and what it carries beside the job.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Error,
    message::{Headers, NewMessage, Visible},
};

/// Options of one push.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background_jobs::PushOptions;
///
/// let options = PushOptions::new()
///     .delay(Duration::from_secs(60))
///     .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// # drop(options);
/// ```
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    visible: Option<Visible>,
    headers: Headers,
}

impl PushOptions {
    /// Returns options that change nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts the job after this time, by the clock of the database.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.visible = Some(Visible::In(delay));
        self
    }

    /// Starts the job at this time.
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.visible = Some(Visible::At(time));
        self
    }

    /// Adds a header, which the handler finds in its [`JobContext`](crate::JobContext).
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Makes the message of a job.
    pub(crate) fn encode<J: Serialize>(self, job: &J) -> Result<NewMessage, Error> {
        let body = serde_json::to_string(job);
        let body = body.map_err(|error| Error::Encode {
            reason: error.to_string(),
        })?;
        let visible = self.visible.unwrap_or(Visible::In(Duration::ZERO));
        Ok(NewMessage {
            headers: self.headers,
            visible,
            ..NewMessage::new(body)
        })
    }
}
