//! What a response has shown so far, and the one place that judges from it how the response ended.
//!
//! The rules follow what servers do with bodies. hyper's HTTP/1 polls a body of known length only
//! until the length is reached, sends no body to `HEAD`, 204 and 304, and cuts off what is beyond
//! the length. Its HTTP/2 polls each body to its own end and sends what it gets. A client answers a
//! length other than the declared one with a reset, as [RFC 9113, section
//! 8.1.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1) demands.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use tokio::time::Instant;

use super::end::{EndDetails, EndKind, ResponseError};

/// How a response ended, and what was wrong with it.
pub(crate) type Judgement = (EndKind, Option<ResponseError>);

/// The head of a response, and what its body says of itself then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) at: Instant,
    /// The exact size that the body states.
    pub(crate) exact_size: Option<u64>,
    /// Whether the body is at its end already.
    pub(crate) at_end: bool,
}

/// What a response has shown so far.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent observations, judged together at the end"
)]
pub(crate) struct BodyState {
    /// Whether code of the service or of the body has panicked.
    has_panicked: AtomicBool,
    ended: bool,
    failed: bool,
    polled: bool,
    is_grpc: bool,
    head: Option<Head>,
    /// The `content-length` of the head.
    header: Option<Length>,
    bytes: u64,
    rare: Option<Box<Rare>>,
}

/// What few responses show.
#[derive(Debug, Default)]
struct Rare {
    trailers: Option<Box<HeaderMap>>,
    grpc_status: Option<i32>,
}

/// A length that a head declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(u64),
    Invalid,
}

impl BodyState {
    /// Notes that code of the service or of the body has panicked.
    pub(crate) fn note_panic(&self) {
        self.has_panicked.store(true, Ordering::Relaxed);
    }

    pub(crate) const fn note_head(&mut self, head: Head) {
        self.ended = head.at_end;
        self.head = Some(head);
    }

    /// Notes what the headers of the head say of the body.
    pub(crate) fn note_headers(&mut self, headers: &HeaderMap) {
        if headers.is_empty() {
            return;
        }
        self.header = find(headers, &CONTENT_LENGTH).map(length);
        self.is_grpc = find(headers, &CONTENT_TYPE).is_some_and(is_grpc);
        // A gRPC status stands in the head only of a response without a body.
        if self.ended {
            if let Some(status) = grpc_status(headers) {
                self.rare().grpc_status = Some(status);
            }
        }
    }

    /// Notes data that the body yielded, and whether it was the last.
    pub(crate) const fn note_data(&mut self, bytes: usize, at_end: bool) {
        self.polled = true;
        self.bytes += bytes as u64;
        self.ended |= at_end;
    }

    /// Notes trailers, which are the last frame of a body.
    pub(crate) fn note_trailers(&mut self, trailers: &HeaderMap, keep: bool) {
        self.polled = true;
        self.ended = true;
        let rare = self.rare();
        rare.grpc_status = grpc_status(trailers).or(rare.grpc_status);
        rare.trailers = keep.then(|| Box::new(trailers.clone()));
    }

    /// Notes that the body was polled, without a frame that counts.
    pub(crate) const fn note_poll(&mut self) {
        self.polled = true;
    }

    /// Notes that the body returned an error.
    pub(crate) const fn note_error(&mut self) {
        self.polled = true;
        self.failed = true;
    }

    /// Notes that the body returned `None`.
    pub(crate) const fn note_end(&mut self) {
        self.polled = true;
        self.ended = true;
    }

    pub(crate) const fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    pub(crate) fn has_grpc_status(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.grpc_status.is_some())
    }

    /// Returns whether the end of the body was seen.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of the yielded bytes a server sends. HTTP/1 cuts off what is beyond the
    /// declared length.
    #[cfg(feature = "sent")]
    pub(crate) fn sendable(&self, version: Version) -> u64 {
        match self.declared() {
            Some(declared) if !is_multiplexed(version) => self.bytes.min(declared),
            _ => self.bytes,
        }
    }

    /// Judges how the response to this request ends if nothing more comes of it.
    pub(crate) fn judge(&self, method: &Method, version: Version) -> Judgement {
        if self.has_panicked.load(Ordering::Relaxed) || std::thread::panicking() {
            return (EndKind::Panicked, None);
        }
        let Some(head) = self.head else {
            return (EndKind::NoResponse, None);
        };
        match self.judge_body(method, version, head) {
            Ok(true) => (EndKind::Complete, None),
            Ok(false) => (EndKind::Interrupted, None),
            Err(error) => (EndKind::Failed, Some(error)),
        }
    }

    /// Returns whether all of the body was there, or what was wrong with the response.
    fn judge_body(
        &self,
        method: &Method,
        version: Version,
        head: Head,
    ) -> Result<bool, ResponseError> {
        let multiplexed = is_multiplexed(version);
        let yielded = self.bytes;
        let is_upgrade =
            head.status == StatusCode::SWITCHING_PROTOCOLS && version == Version::HTTP_11;
        if head.status.is_informational() && !is_upgrade {
            return Err(ResponseError::InformationalStatus);
        }
        if self.failed {
            return Err(ResponseError::Body);
        }
        if multiplexed && self.header == Some(Length::Invalid) {
            return Err(ResponseError::InvalidLength);
        }
        if is_upgrade || !can_have_body(method, head.status) {
            return match yielded {
                1.. if multiplexed => Err(ResponseError::NotAllowed),
                _ => Ok(self.ended || !self.polled),
            };
        }
        match self.declared() {
            Some(declared) if yielded > declared && multiplexed => {
                Err(ResponseError::TooLong { declared, yielded })
            }
            Some(declared) if yielded < declared && self.ended => {
                Err(ResponseError::TooShort { declared, yielded })
            }
            Some(hinted) if self.ended || (yielded >= hinted && !multiplexed) => {
                match self.contradiction(multiplexed) {
                    Some(declared) => Err(ResponseError::Contradicted { declared, hinted }),
                    None => Ok(true),
                }
            }
            _ => Ok(self.ended),
        }
    }

    /// Returns the length that the server goes by: the exact size of the body, else its
    /// `content-length`.
    fn declared(&self) -> Option<u64> {
        let exact_size = self.head.and_then(|head| head.exact_size);
        exact_size.or(match self.header {
            Some(Length::Bytes(declared)) => Some(declared),
            _ => None,
        })
    }

    /// Returns a `content-length` that is sent, and is not the exact size of the body.
    fn contradiction(&self, multiplexed: bool) -> Option<u64> {
        let head = self.head?;
        // hyper's HTTP/1 leaves the header out if the body is at its end already.
        let is_sent = multiplexed || !head.at_end;
        match self.header {
            Some(Length::Bytes(header))
                if is_sent && head.exact_size.is_some_and(|size| size != header) =>
            {
                Some(header)
            }
            _ => None,
        }
    }

    /// Returns what is known of the response at its end.
    pub(crate) fn into_details(self, (kind, error): Judgement, now: Instant) -> EndDetails {
        let rare = self.rare.map_or_else(Rare::default, |rare| *rare);
        EndDetails {
            error,
            status: self.head.map(|head| head.status),
            bytes: self.bytes,
            trailers: rare.trailers,
            is_grpc: self.is_grpc,
            grpc_status: rare.grpc_status,
            head_at: self.head.map(|head| head.at),
            ..EndDetails::new(kind, now)
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// Returns whether this version sends several responses at once.
fn is_multiplexed(version: Version) -> bool {
    version >= Version::HTTP_2
}

/// Returns whether a response can have a body, by
/// [RFC 9110, section 6.4.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1).
pub(crate) fn can_have_body(method: &Method, status: StatusCode) -> bool {
    !(method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (method == Method::CONNECT && status.is_success()))
}

/// Returns the length that a head declares by `content-length`.
#[cfg(feature = "sent")]
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    match find(headers, &CONTENT_LENGTH).map(length)? {
        Length::Bytes(bytes) => Some(bytes),
        Length::Invalid => None,
    }
}

/// So many headers are faster compared than the name is hashed.
const FEW: usize = 4;

fn find<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > FEW {
        headers.get(name)
    } else {
        headers
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

/// Parses the digits of a length. `str::parse` would take a sign, which servers and clients do not.
fn length(value: &HeaderValue) -> Length {
    let digits = value.as_bytes();
    let parsed = digits.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            None
        } else {
            length.checked_mul(10)?.checked_add(digit.into())
        }
    });
    parsed
        .filter(|_| !digits.is_empty())
        .map_or(Length::Invalid, Length::Bytes)
}

/// Returns whether this content type is one of gRPC. gRPC-Web sends its status in the body, where
/// it is not seen.
fn is_grpc(content_type: &HeaderValue) -> bool {
    match content_type.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"),
        None => false,
    }
}

/// Reads `grpc-status` from a head or from trailers.
fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers
        .get("grpc-status")?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
#[path = "body_state_tests.rs"]
mod tests;
