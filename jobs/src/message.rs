//! What an engine stores: messages, their headers, and the claim of the worker that read one.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::time::time;

/// The headers of a message: a JSON object.
pub type Headers = Map<String, Value>;

const FAILURES: &str = "x-failures";
const RETURNS: &str = "x-returns";
const ALONE: &str = "x-alone";
const ERROR: &str = "x-error";

/// Errors are kept up to this many characters.
const MAX_ERROR: usize = 4_000;

/// A message to send.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewMessage {
    /// The job as JSON.
    pub body: String,
    /// Headers. Workers add their own.
    pub headers: Headers,
    /// When workers can see the message.
    pub visible: Visible,
}

/// When a message can be seen.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Visible {
    /// After this time, by the clock of the database.
    In(Duration),
    /// At this time.
    At(SystemTime),
}

impl NewMessage {
    pub(crate) fn new(body: String) -> Self {
        Self {
            body,
            headers: Headers::new(),
            visible: Visible::In(Duration::ZERO),
        }
    }

    /// The headers as JSON, if there are any.
    pub(crate) fn headers_json(&self) -> Option<String> {
        (!self.headers.is_empty()).then(|| Value::Object(self.headers.clone()).to_string())
    }

    /// Whether body or headers contain U+0000.
    #[cfg(feature = "postgres")]
    pub(crate) fn has_nul(&self) -> bool {
        has_nul_escape(&self.body)
            || self
                .headers_json()
                .is_some_and(|json| has_nul_escape(&json))
    }
}

/// Whether a JSON text contains `\u0000`, and not an escaped backslash before `u0000`.
#[cfg(feature = "postgres")]
fn has_nul_escape(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json[..at]
            .bytes()
            .rev()
            .take_while(|byte| *byte == b'\\')
            .count();
        backslashes % 2 == 0
    })
}

/// The message that a worker read, as far as later calls need to know it.
///
/// A later read of the same message raises `read_count`, so that calls with an older claim change
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    clippy::exhaustive_structs,
    reason = "engines build it, and these two values are the fence"
)]
pub struct Claim {
    /// The message.
    pub id: i64,
    /// How many times it had been read, with this read.
    pub read_count: i32,
}

/// A message that was read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// Which message, and which read of it.
    pub claim: Claim,
    /// When it was pushed.
    pub enqueued_at: SystemTime,
    /// The job as JSON.
    pub body: String,
    /// Its headers.
    pub headers: Headers,
}

/// Id, read count, pushed at in milliseconds since 1970, job and headers.
pub(crate) type MessageRow = (i64, i32, i64, Option<String>, Option<String>);

impl Message {
    /// Makes messages from rows of an engine, in the order of their ids.
    pub(crate) fn from_rows(rows: impl IntoIterator<Item = MessageRow>) -> Vec<Self> {
        let message = |(id, read_count, enqueued_at, body, headers): MessageRow| {
            let body = body.unwrap_or_else(|| "null".to_owned());
            let claim = Claim { id, read_count };
            Self::new(claim, time(enqueued_at), body, headers.as_deref())
        };
        let mut messages: Vec<Self> = rows.into_iter().map(message).collect();
        messages.sort_unstable_by_key(|message| message.claim.id);
        messages
    }

    /// Makes a message from what an engine stored.
    #[must_use]
    pub fn new(claim: Claim, enqueued_at: SystemTime, body: String, headers: Option<&str>) -> Self {
        Self {
            claim,
            enqueued_at,
            body,
            headers: parse_headers(headers),
        }
    }

    /// Runs that were begun, with this one. Reads that the worker returned on purpose do not count.
    pub(crate) fn attempt(&self) -> u32 {
        let reads = u32::try_from(self.claim.read_count).unwrap_or(0);
        reads.saturating_sub(count(&self.headers, RETURNS)).max(1)
    }

    /// Runs before this one of which nobody said how they ended: the process died, or the reply to
    /// the read got lost.
    pub(crate) fn deaths(&self) -> u32 {
        (self.attempt() - 1).saturating_sub(count(&self.headers, FAILURES))
    }

    /// The headers after one more failure.
    pub(crate) fn after_failure(&self, error: &str) -> Headers {
        let mut headers = self.headers.clone();
        let failures = count(&headers, FAILURES) + 1;
        headers.insert(FAILURES.to_owned(), failures.into());
        headers.insert(ERROR.to_owned(), clean(error).into());
        headers
    }

    /// The headers after a read that is no attempt.
    pub(crate) fn after_return(&self) -> Headers {
        let mut headers = self.headers.clone();
        let returns = count(&headers, RETURNS) + 1;
        headers.insert(RETURNS.to_owned(), returns.into());
        headers
    }

    /// The headers of a job that is about to run alone.
    pub(crate) fn before_run_alone(&self) -> Headers {
        let mut headers = self.headers.clone();
        headers.insert(ALONE.to_owned(), (count(&headers, ALONE) + 1).into());
        headers
    }

    /// Whether a worker wrote that it was about to run this job alone.
    pub(crate) fn ran_alone(&self) -> bool {
        count(&self.headers, ALONE) > 0
    }

    /// The headers with an error that is no failure of a run.
    pub(crate) fn with_error(&self, error: &str) -> Headers {
        let mut headers = self.headers.clone();
        headers.insert(ERROR.to_owned(), clean(error).into());
        headers
    }
}

/// The last error that a worker noted.
pub(crate) fn last_error(headers: &Headers) -> Option<&str> {
    headers.get(ERROR).and_then(Value::as_str)
}

/// How many runs failed.
pub(crate) fn failures(headers: &Headers) -> u32 {
    count(headers, FAILURES)
}

/// The headers of a job that starts anew: without the counts of its earlier life.
pub(crate) fn reset(headers: &Headers) -> Headers {
    let mut headers = headers.clone();
    for key in [FAILURES, RETURNS, ALONE, ERROR] {
        headers.remove(key);
    }
    headers
}

/// Headers of other clients may be absent or no object. A worker takes these messages too.
pub(crate) fn parse_headers(json: Option<&str>) -> Headers {
    json.and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default()
}

fn count(headers: &Headers, key: &str) -> u32 {
    let number = headers.get(key).and_then(Value::as_u64);
    number
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(0)
}

/// PostgreSQL's JSON takes no U+0000, and a long error would slow every read.
fn clean(error: &str) -> String {
    error
        .chars()
        .take(MAX_ERROR)
        .map(|c| if c == '\0' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(read_count: i32, headers: Headers) -> Message {
        let claim = Claim { id: 1, read_count };
        let mut message = Message::new(claim, SystemTime::UNIX_EPOCH, String::new(), None);
        message.headers = headers;
        message
    }

    #[test]
    fn a_read_without_an_end_is_a_death() {
        let first = read(1, Headers::new());
        assert_eq!((first.attempt(), first.deaths()), (1, 0));
        let failed = read(2, first.after_failure("no"));
        assert_eq!((failed.attempt(), failed.deaths()), (2, 0));
        let died = read(4, failed.headers);
        assert_eq!((died.attempt(), died.deaths()), (4, 2));
        let returned = read(5, died.after_return());
        assert_eq!((returned.attempt(), returned.deaths()), (4, 2));
    }

    #[test]
    fn an_error_is_stored_without_nul_and_cut() {
        let headers = read(1, Headers::new()).after_failure(&format!("a\0b{}", "x".repeat(5_000)));
        let error = last_error(&headers).expect("it is there");
        assert!(error.starts_with("a\u{fffd}b"));
        assert_eq!(error.chars().count(), MAX_ERROR);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn only_a_real_nul_is_found() {
        assert!(has_nul_escape(&serde_json::to_string("a\0b").unwrap()));
        assert!(has_nul_escape(&serde_json::to_string("\\\0").unwrap()));
        assert!(!has_nul_escape(&serde_json::to_string("\\u0000").unwrap()));
    }
}
