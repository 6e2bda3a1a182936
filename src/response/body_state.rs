//! [`BodyState`]: what a response has shown so far, and the one place that judges how it ended.
//!
//! The rules follow what hyper does with bodies:
//!
//! - Over HTTP/1, hyper polls a body of known length until that length is reached, and cuts off the
//!   rest. It sends no body in answer to `HEAD`, and none with 204 and 304.
//! - Over HTTP/2, hyper polls each body to its end, and sends all of it. If the length is not the
//!   declared one, the client resets the stream: [RFC 9113, section
//!   8.1.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1).

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, Method, Response, StatusCode, Version};
use tokio::time::Instant;

use super::{
    end::{EndDetails, EndKind, ResponseHead},
    headers::{ContentLength, grpc_status, is_grpc_ok, length_and_is_grpc},
    response_error::ResponseError,
};

/// How a response ended, and what was wrong with it.
type Judgement = (EndKind, Option<ResponseError>);

/// What the head of a response shows, and what its body says of itself at that time.
#[derive(Debug, Clone, Copy)]
struct Head {
    status: StatusCode,
    at: Instant,
    /// The exact size that the body states.
    exact_size: Option<u64>,
    /// Whether the body is at its end already.
    at_end: bool,
    is_grpc: bool,
}

/// What a response has shown so far. When the response has ended, this is kept, and is judged when
/// somebody asks.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent observations, judged together at the end"
)]
pub(crate) struct BodyState {
    /// Whether code of the service or of the body has panicked.
    has_panicked: AtomicBool,
    /// Whether the body said after its last poll that it is at its end, when the server asked.
    tells_end: AtomicBool,
    /// How the response ended, if that does not depend on its body.
    kind: Option<EndKind>,
    /// Whether the end of the body was seen in a frame, or instead of one.
    has_ended: bool,
    /// Whether the body returned `None`.
    is_over: bool,
    /// Whether the body returned an error.
    has_failed: bool,
    was_polled: bool,
    /// Whether the trailers are those of [`GRPC_OK`](super::headers::GRPC_OK).
    has_grpc_ok: bool,
    head: Option<Head>,
    content_length: Option<ContentLength>,
    /// How many bytes of data the body has yielded.
    bytes: u64,
    trailers: Option<Box<HeaderMap>>,
    grpc_status: Option<i32>,
}

impl BodyState {
    /// Notes that code of the service or of the body has panicked.
    pub(crate) fn note_panic(&self) {
        self.has_panicked.store(true, Ordering::Relaxed);
    }

    /// Notes that the body said that it is at its end, when the server asked. The server need not poll
    /// it again.
    pub(crate) fn note_tells_end(&self) {
        self.tells_end.store(true, Ordering::Relaxed);
    }

    /// Returns whether the end of the body is known.
    fn has_ended(&self) -> bool {
        self.has_ended || self.tells_end.load(Ordering::Relaxed)
    }

    /// Notes the head of the response, the exact size that its body states, and whether the body is
    /// at its end already. Returns what tasks that start early learn of the head.
    pub(crate) fn note_head<B>(
        &mut self,
        response: &Response<B>,
        at: Instant,
        exact_size: Option<u64>,
        at_end: bool,
    ) -> ResponseHead {
        self.has_ended = at_end;
        let status = response.status();
        let headers = response.headers();
        let mut is_grpc = false;
        if !headers.is_empty() {
            (self.content_length, is_grpc) = length_and_is_grpc(headers);
            // Only a response without a body has its gRPC status in the head.
            if at_end {
                self.grpc_status = grpc_status(headers);
            }
        }
        self.head = Some(Head {
            status,
            at,
            exact_size,
            at_end,
            is_grpc,
        });
        ResponseHead {
            status,
            is_grpc,
            at,
        }
    }

    /// Notes data that the body yielded, and whether it was the last frame.
    pub(crate) fn note_data(&mut self, bytes: usize, at_end: bool) {
        self.note_poll();
        self.bytes += bytes as u64;
        self.has_ended |= at_end;
    }

    /// Notes trailers, which are the last frame of a body. `keep` says whether anybody may ask for
    /// them.
    pub(crate) fn note_trailers(&mut self, trailers: &HeaderMap, keep: bool) {
        self.note_poll();
        self.has_ended = true;
        self.has_grpc_ok = is_grpc_ok(trailers);
        if self.has_grpc_ok {
            self.grpc_status = Some(0);
            return;
        }
        self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        if keep {
            self.trailers = Some(Box::new(trailers.clone()));
        }
    }

    /// Notes that the body was polled.
    pub(crate) fn note_poll(&mut self) {
        self.was_polled = true;
        *self.tells_end.get_mut() = false;
    }

    /// Notes that the body returned an error.
    pub(crate) fn note_error(&mut self) {
        self.note_poll();
        self.has_failed = true;
    }

    /// Notes that the body returned `None`.
    pub(crate) fn note_end(&mut self) {
        self.note_poll();
        self.has_ended = true;
        self.is_over = true;
    }

    /// Notes that the response is dropped, perhaps by a thread that panics.
    #[inline]
    pub(crate) fn note_drop(&mut self) {
        if std::thread::panicking() {
            self.note_panic();
        }
    }

    /// Notes how the response ended, whatever the body has shown.
    pub(crate) const fn set_kind(&mut self, kind: EndKind) {
        self.kind = Some(kind);
    }

    /// Returns whether the head or the trailers had a gRPC status.
    pub(crate) fn has_grpc_status(&self) -> bool {
        self.grpc_status.is_some()
    }

    /// Returns whether the body has returned `None`, and only its drop is missing.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns how many bytes of data the body has yielded.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many of the yielded bytes the server sends. Over HTTP/1 it cuts off the data
    /// after the declared length.
    #[cfg(feature = "sent")]
    pub(crate) fn sendable(&self, version: Version) -> u64 {
        match self.declared() {
            Some(declared) if !is_multiplexed(version) => self.bytes.min(declared),
            _ => self.bytes,
        }
    }

    /// Returns whether the response is complete if its body is dropped now.
    #[cfg(feature = "sent")]
    pub(crate) fn is_complete(&self, method: &Method, version: Version) -> bool {
        self.judge(method, version).0 == EndKind::Complete
    }

    /// Judges how the response ends if its body is dropped now.
    fn judge(&self, method: &Method, version: Version) -> Judgement {
        if let Some(kind) = self.kind {
            return (kind, None);
        }
        if self.has_panicked.load(Ordering::Relaxed) {
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

    /// Returns whether the server has all of the body, or what is wrong with the response.
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
        if self.has_failed {
            return Err(ResponseError::Body);
        }
        if multiplexed && self.content_length == Some(ContentLength::Invalid) {
            return Err(ResponseError::InvalidLength);
        }
        if is_upgrade || !can_have_body(method, head.status) {
            return if multiplexed && yielded > 0 {
                Err(ResponseError::NotAllowed)
            } else {
                Ok(self.has_ended() || !self.was_polled)
            };
        }
        let Some(declared) = self.declared() else {
            return Ok(self.has_ended());
        };
        if multiplexed && yielded > declared {
            return Err(ResponseError::TooLong { declared, yielded });
        }
        if self.has_ended() && yielded < declared {
            return Err(ResponseError::TooShort { declared, yielded });
        }
        // Over HTTP/1 the server does not poll a body again that has yielded its length.
        let is_whole = self.has_ended() || (!multiplexed && yielded >= declared);
        match self.contradiction(multiplexed).filter(|_| is_whole) {
            Some(error) => Err(error),
            None => Ok(is_whole),
        }
    }

    /// Returns the length that the server expects: the exact size of the body, or else its
    /// `content-length`.
    fn declared(&self) -> Option<u64> {
        let exact_size = self.head.and_then(|head| head.exact_size);
        exact_size.or(match self.content_length {
            Some(ContentLength::Bytes(length)) => Some(length),
            _ => None,
        })
    }

    /// Returns an error if the server sends a `content-length` that is not the exact size of the
    /// body.
    fn contradiction(&self, multiplexed: bool) -> Option<ResponseError> {
        let Head {
            exact_size, at_end, ..
        } = self.head?;
        // Over HTTP/1, hyper leaves the header out if the body is at its end already.
        let is_sent = multiplexed || !at_end;
        match (self.content_length, exact_size) {
            (Some(ContentLength::Bytes(declared)), Some(hinted))
                if is_sent && declared != hinted =>
            {
                Some(ResponseError::Contradicted { declared, hinted })
            }
            _ => None,
        }
    }

    /// Returns what a [`ResponseEnd`](super::ResponseEnd) says of the response. Takes the trailers.
    /// `bytes_sent` is how many bytes of the data the socket took, if that is known.
    pub(crate) fn details(
        &mut self,
        method: &Method,
        version: Version,
        bytes_sent: Option<u64>,
        ended_at: Instant,
    ) -> EndDetails {
        let (kind, error) = self.judge(method, version);
        EndDetails {
            kind,
            error,
            status: self.head.map(|head| head.status),
            bytes: self.bytes,
            bytes_sent,
            trailers: self.trailers.take(),
            is_grpc: self.head.is_some_and(|head| head.is_grpc),
            has_grpc_ok: self.has_grpc_ok,
            grpc_status: self.grpc_status,
            head_at: self.head.map(|head| head.at),
            ended_at,
        }
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

#[cfg(test)]
#[path = "body_state_tests.rs"]
mod tests;
