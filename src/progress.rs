//! What is seen of a response while it passes, and the one place that judges from it how the response ended.
//!
//! The rules follow what servers do with bodies. hyper's HTTP/1 polls a body of known length only until the length is
//! reached, sends no body to `HEAD`, 204 and 304 and cuts off what is beyond the length. Its HTTP/2 polls each body to its own
//! end and sends what it gets; a client answers a length other than the declared one by a reset, as
//! [RFC 9113, section 8.1.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1) demands.

use http::{HeaderMap, Method, StatusCode, Version, header::CONTENT_LENGTH};
use tokio::time::Instant;

use crate::{
    end::{BodyError, End, grpc_status},
    exchange::{Ended, Exchange, Head, Rare},
};

/// How a response ended, and what was wrong with its body.
pub(crate) type Verdict = (End, Option<BodyError>);

/// What the response has shown so far. It moves with what it is about, so it is kept small.
#[expect(clippy::struct_excessive_bools, reason = "they are independent observations, judged together at the end")]
#[derive(Debug, Default)]
pub(crate) struct Progress {
    panicked: bool,
    multiplexed: bool,
    bodyless: bool,
    polled: bool,
    ended: bool,
    failed: bool,
    /// Whether more was asked of the body than one frame.
    streamed: bool,
    /// Whether the socket took all of the data.
    all_sent: bool,
    /// Whether `declared` is a length.
    is_declared: bool,
    declared: u64,
    head: Option<Head>,
    bytes: u64,
    rare: Option<Box<Rare>>,
}

impl Progress {
    /// Notes whether the code of the service or of the body panicked when it ran last.
    #[inline]
    pub(crate) const fn ran(&mut self, panicked: bool) {
        self.panicked = panicked;
    }

    /// Notes the head, and what the body says of itself: its exact size, and whether it is at its end already. Returns the
    /// gRPC status that the head may have.
    #[inline]
    pub(crate) fn head(&mut self, request: &Exchange, head: Head, headers: &HeaderMap, body: (Option<u64>, bool)) -> Option<i32> {
        let (hinted, ended) = body;
        self.head = Some(head);
        self.multiplexed = head.version >= Version::HTTP_2;
        self.bodyless = bodyless(&request.method, head.status);
        self.ended = ended;
        let header = content_length(headers);
        let declared = hinted.or(header);
        self.is_declared = declared.is_some();
        self.declared = declared.unwrap_or_default();
        if ended || header.is_some() { self.rare_head(header, declared, headers) } else { None }
    }

    /// The head, once it is ready.
    #[inline]
    pub(crate) const fn known_head(&self) -> Option<Head> {
        self.head
    }

    /// Notes what only a head with a length tells, or one without a body.
    fn rare_head(&mut self, header: Option<u64>, declared: Option<u64>, headers: &HeaderMap) -> Option<i32> {
        // hyper's HTTP/1 leaves the header out beside a body that is at its end.
        let sent = self.multiplexed || !self.ended;
        if sent && header.is_some() && header != declared {
            self.rare().contradiction = header;
        }
        // A gRPC status stands in the head only of a response without a body.
        let grpc_status = if self.ended { grpc_status(headers) } else { None };
        if grpc_status.is_some() {
            self.rare().grpc_status_in_head = grpc_status;
        }
        grpc_status
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Notes so many bytes that the body yielded, and whether they were the last.
    #[inline]
    pub(crate) const fn data(&mut self, bytes: usize, at_end: bool) {
        self.frame();
        self.bytes += bytes as u64;
        self.ended |= at_end;
    }

    /// Notes trailers, which are the last that a body yields.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap, keep: bool) {
        self.frame();
        self.ended = true;
        let rare = self.rare();
        rare.grpc_status = grpc_status(trailers);
        if keep {
            rare.trailers = Some(trailers.clone());
        }
    }

    /// Notes that the body yielded a frame.
    #[inline]
    pub(crate) const fn frame(&mut self) {
        self.streamed |= self.polled;
        self.polled = true;
    }

    /// Notes that the body was polled and has no frame yet.
    #[inline]
    pub(crate) const fn pending(&mut self) {
        self.polled = true;
        self.streamed = true;
    }

    /// Notes that the body returned an error.
    #[inline]
    pub(crate) const fn failed(&mut self) {
        self.polled = true;
        self.failed = true;
    }

    /// Notes that the body returned `None`.
    #[inline]
    pub(crate) const fn ended(&mut self) {
        self.streamed |= self.polled && !self.ended;
        self.polled = true;
        self.ended = true;
    }

    /// Whether the end of the body was seen.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of what was yielded a server can send: HTTP/1 cuts off what is beyond the declared length.
    pub(crate) const fn sendable(&self) -> u64 {
        if self.is_declared && !self.multiplexed && self.bytes > self.declared { self.declared } else { self.bytes }
    }

    /// Notes how much of the data the socket took at least, if that is known.
    pub(crate) fn sent(&mut self, bytes: Option<u64>) {
        self.all_sent = bytes == Some(self.bytes);
        if bytes.is_some() && !self.all_sent {
            self.rare().bytes_sent = bytes;
        }
    }

    /// The end, now, that `verdict` told.
    #[inline]
    pub(crate) fn end(&mut self, (kind, error): Verdict) -> Ended {
        if error.is_some() {
            self.rare().error = error;
        }
        Ended { kind, head: self.head, bytes: self.bytes, all_sent: self.all_sent, at: Instant::now(), rare: self.rare.take() }
    }

    /// Whether the server writes the rest of the response before it turns to anything else, as hyper's HTTP/1 does with a
    /// body that it had whole with its first frame, if it had one at all.
    pub(crate) const fn is_written_next(&self) -> bool {
        !self.multiplexed && !self.streamed && self.ended
    }

    /// How the response ends if nothing more comes of it.
    #[inline]
    pub(crate) fn verdict(&self) -> Verdict {
        if self.panicked || std::thread::panicking() {
            return (End::Panicked, None);
        }
        if self.head.is_none() {
            return (End::Cancelled, None);
        }
        match self.body_verdict() {
            Ok(true) => (End::Complete, None),
            Ok(false) => (End::Aborted, None),
            Err(error) => (End::BodyError, Some(error)),
        }
    }

    /// Whether all of the body was there, or what was wrong with it.
    fn body_verdict(&self) -> Result<bool, BodyError> {
        let yielded = self.bytes;
        if self.failed {
            return Err(BodyError::Failed);
        }
        if self.bodyless {
            return match yielded {
                1.. if self.multiplexed => Err(BodyError::NotAllowed),
                _ => Ok(self.ended || !self.polled),
            };
        }
        match self.is_declared.then_some(self.declared) {
            Some(declared) if yielded > declared && self.multiplexed => Err(BodyError::TooLong { declared, yielded }),
            Some(declared) if yielded < declared && self.ended => Err(BodyError::TooShort { declared, yielded }),
            Some(hinted) if self.ended || (yielded >= hinted && !self.multiplexed) => {
                let contradiction = self.rare.as_ref().and_then(|rare| rare.contradiction);
                contradiction.map_or(Ok(true), |declared| Err(BodyError::Contradicted { declared, hinted }))
            }
            _ => Ok(self.ended),
        }
    }
}

/// The version that is spoken: servers set it on the request, clients on the response.
pub(crate) fn protocol(request: Version, response: Version) -> Version {
    if response >= Version::HTTP_2 { response } else { request }
}

/// Whether a response can have no body, by [RFC 9110, section 6.4.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.4.1).
pub(crate) fn bodyless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (method == Method::CONNECT && status.is_success())
}

/// What a head declares by `content-length`.
#[inline]
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    if headers.is_empty() { None } else { parsed_length(headers) }
}

fn parsed_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    // `parse` takes a sign, too, which servers and clients do not.
    length.bytes().all(|byte| byte.is_ascii_digit()).then_some(length)?.parse().ok()
}
