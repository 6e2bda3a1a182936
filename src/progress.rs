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
    ended: bool,
    failed: bool,
    /// Whether the socket took all of the data.
    all_sent: bool,
    /// Whether `declared` is a length.
    is_declared: bool,
    declared: u64,
    head: Option<Head>,
    bytes: u64,
    /// How often the body was polled before its end was noted; one that had nothing yet counts as two.
    polls: u64,
    rare: Option<Box<Rare>>,
}

impl Progress {
    /// Notes whether the code of the service or of the body panicked when it ran last.
    #[inline]
    pub(crate) const fn ran(&mut self, panicked: bool) {
        self.panicked = panicked;
    }

    /// Notes the head, and what the body says of itself: its exact size, and whether it is at its end already.
    #[inline]
    pub(crate) fn head(&mut self, head: Head, body: (Option<u64>, bool)) {
        let (hinted, ended) = body;
        self.head = Some(head);
        self.ended = ended;
        self.is_declared = hinted.is_some();
        self.declared = hinted.unwrap_or_default();
    }

    /// Notes what the headers tell of the body. Returns the gRPC status that they may have.
    pub(crate) fn headers(&mut self, headers: &HeaderMap) -> Option<i32> {
        if let Some(header) = content_length(headers) {
            let declared = if self.is_declared { self.declared } else { header };
            (self.is_declared, self.declared) = (true, declared);
            // hyper's HTTP/1 leaves the header out beside a body that is at its end.
            let sent = self.is_multiplexed() || !self.ended;
            if sent && header != declared {
                self.rare().contradiction = Some(header);
            }
        }
        // A gRPC status stands in the head only of a response without a body.
        let grpc_status = if self.ended { grpc_status(headers) } else { None };
        if grpc_status.is_some() {
            self.rare().grpc_status_in_head = grpc_status;
        }
        grpc_status
    }

    fn is_multiplexed(&self) -> bool {
        self.head.is_some_and(|head| head.version >= Version::HTTP_2)
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
        self.polls += 1;
    }

    /// Notes that the body was polled and has no frame yet.
    #[inline]
    pub(crate) const fn pending(&mut self) {
        self.polls += 2;
    }

    /// Notes that the body returned an error.
    #[inline]
    pub(crate) const fn failed(&mut self) {
        self.polls += 1;
        self.failed = true;
    }

    /// Notes that the body returned `None`.
    #[inline]
    pub(crate) const fn ended(&mut self) {
        if !self.ended {
            self.polls += 1;
            self.ended = true;
        }
    }

    pub(crate) const fn noted_head(&self) -> Option<Head> {
        self.head
    }

    /// Whether the end of the body was seen.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of what was yielded a server can send: HTTP/1 cuts off what is beyond the declared length.
    pub(crate) fn sendable(&self) -> u64 {
        if self.is_declared && !self.is_multiplexed() && self.bytes > self.declared { self.declared } else { self.bytes }
    }

    /// Notes how much of the data the socket took at least, if that is known.
    pub(crate) fn sent(&mut self, bytes: Option<u64>) {
        self.all_sent = bytes == Some(self.bytes);
        if bytes.is_some() && !self.all_sent {
            self.rare().bytes_sent = bytes;
        }
    }

    /// The end, now, that `verdict` told, and what few responses show.
    #[inline]
    pub(crate) fn end(&mut self, (kind, error): Verdict) -> (Ended, Option<Box<Rare>>) {
        if error.is_some() {
            self.rare().error = error;
        }
        let ended = Ended { kind, head: self.head, bytes: self.bytes, all_sent: self.all_sent, at: Instant::now() };
        (ended, self.rare.take())
    }

    /// Whether the server writes the rest of the response before it turns to anything else, as hyper's HTTP/1 does with a
    /// body that it had whole with its first frame, if it had one at all.
    pub(crate) fn is_written_next(&self) -> bool {
        !self.is_multiplexed() && self.polls <= 1 && self.ended
    }

    /// How the response to this request ends if nothing more comes of it.
    #[inline]
    pub(crate) fn verdict(&self, request: &Exchange) -> Verdict {
        if self.panicked || std::thread::panicking() {
            return (End::Panicked, None);
        }
        let Some(head) = self.head else { return (End::Cancelled, None) };
        match self.body_verdict(bodyless(&request.method, head.status)) {
            Ok(true) => (End::Complete, None),
            Ok(false) => (End::Aborted, None),
            Err(error) => (End::BodyError, Some(error)),
        }
    }

    /// Whether all of the body was there, or what was wrong with it.
    fn body_verdict(&self, bodyless: bool) -> Result<bool, BodyError> {
        let yielded = self.bytes;
        let multiplexed = self.is_multiplexed();
        if self.failed {
            return Err(BodyError::Failed);
        }
        if bodyless {
            return match yielded {
                1.. if multiplexed => Err(BodyError::NotAllowed),
                _ => Ok(self.ended || self.polls == 0),
            };
        }
        match self.is_declared.then_some(self.declared) {
            Some(declared) if yielded > declared && multiplexed => Err(BodyError::TooLong { declared, yielded }),
            Some(declared) if yielded < declared && self.ended => Err(BodyError::TooShort { declared, yielded }),
            Some(hinted) if self.ended || (yielded >= hinted && !multiplexed) => {
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
    // A few are sooner looked through than a name is hashed.
    let length = if headers.len() > 4 {
        headers.get(CONTENT_LENGTH)?
    } else {
        headers.iter().find(|(name, _)| *name == CONTENT_LENGTH)?.1
    };
    let length = length.as_bytes();
    if length.is_empty() {
        return None;
    }
    // `parse` would take a sign, too, which servers and clients do not.
    length.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { length.checked_mul(10)?.checked_add(digit.into()) }
    })
}
