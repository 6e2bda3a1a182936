//! [`ResponseDelivery`]: follows a response from the layer to the socket, on a tracked connection.
//!
//! Over HTTP/1 a server has one response at a time. So the flush after the server dropped a
//! response is a flush of all of it.
//!
//! Over HTTP/2 a server queues frames, and writes them when the client allows it. So each data
//! frame gets a guard. If the head or the trailers are the last frame, one of their values gets a
//! guard. The guard of the last frame tells when the response was written. The other guards tell
//! how much of a lost response was written. If [`SentBody`](super::SentBody) guards the last frame,
//! this file does not.

use std::sync::Arc;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use super::{
    entry::SendResult,
    frames::{Ending, guard_data, guard_headers},
    guard::{FrameGuard, TrackedResponse},
    pending::ResponseKey,
    state::Pending,
    write_progress::Position,
};
use crate::middleware::{Connection, Delivery, EndedResponse, TrackedConnection};

/// Tells the request which connection it came over.
pub(super) fn track(extensions: &mut Extensions, response: Arc<TrackedResponse>) {
    extensions.insert(TrackedConnection(response));
}

impl Connection for TrackedResponse {
    fn follow(self: Arc<Self>) -> Box<dyn Delivery> {
        let progress = self.connection().progress();
        let position = (!self.is_multiplexed()).then(|| progress.start_response());
        Box::new(ResponseDelivery {
            response: self,
            position,
            has_claimed: false,
            is_held: false,
            key: None,
            ending: Ending::default(),
            ended: None,
        })
    }
}

/// See the module's documentation.
struct ResponseDelivery {
    response: Arc<TrackedResponse>,
    /// Where the response stands in the writes of its connection, over HTTP/1.
    position: Option<Position>,
    /// Whether it is known that tasks wait for the response.
    has_claimed: bool,
    /// Whether [`SentBody`](super::SentBody) sees the response, and guards its last frame.
    is_held: bool,
    /// The response, once tasks wait for it or it has a guard.
    key: Option<ResponseKey>,
    ending: Ending,
    /// What the layer leaves of the response when it drops the body.
    ended: Option<EndedResponse>,
}

impl ResponseDelivery {
    const fn is_multiplexed(&self) -> bool {
        self.position.is_none()
    }

    /// Notes that tasks wait for the response.
    fn claim(&mut self) {
        if !std::mem::replace(&mut self.has_claimed, true) {
            self.key = self.response.claim();
            self.is_held = self.key.is_some();
        }
    }

    fn note_poll(&self) {
        if let Some(key) = self.key {
            self.response.connection().note_poll(key);
        }
    }

    fn guard(&mut self, length: usize, is_last: bool) -> Option<FrameGuard> {
        FrameGuard::new(self.response.connection(), &mut self.key, length, is_last)
    }
}

impl Delivery for ResponseDelivery {
    fn head(&mut self, headers: &mut HeaderMap, is_last: bool) -> bool {
        self.claim();
        self.ending.note_last(is_last);
        if is_last && !self.is_held && self.is_multiplexed() {
            guard_headers(headers, || self.guard(0, true));
        }
        self.is_held
    }

    fn data(&mut self, data: Option<&mut Bytes>, length: usize, is_last: bool, before: u64) {
        self.claim();
        self.ending.note_last(is_last);
        if let Some(position) = &mut self.position {
            self.response
                .connection()
                .progress()
                .bytes_sent(position, before);
            return;
        }
        let needs_guard = if is_last { !self.is_held } else { length > 0 };
        if let Some(data) = data.filter(|_| needs_guard) {
            guard_data(data, self.guard(length, is_last));
        }
    }

    fn trailers(&mut self, trailers: &mut HeaderMap, before: u64) {
        self.claim();
        self.ending.note_last(true);
        if let Some(position) = &mut self.position {
            self.response
                .connection()
                .progress()
                .bytes_sent(position, before);
        } else if !self.is_held {
            guard_headers(trailers, || self.guard(0, true));
        }
    }

    fn end_frame(&mut self) -> Option<Bytes> {
        self.claim();
        if self.ending.has_passed() || self.is_held || !self.is_multiplexed() {
            return None;
        }
        let Self {
            response,
            key,
            ending,
            ..
        } = self;
        ending.end_frame(|| FrameGuard::new(response.connection(), key, 0, true))
    }

    fn polled(&mut self) -> bool {
        self.note_poll();
        self.ending.take_owed_none()
    }

    fn has_told_end(&self) -> bool {
        self.note_poll();
        self.ending.has_end_frame()
    }

    fn wait(mut self: Box<Self>, mut response: EndedResponse) {
        if response.is_complete() {
            self.claim();
            let key = self.key.take();
            let multiplexed = self.is_multiplexed();
            let connection = Arc::clone(self.response.connection());
            self.ended = Some(response);
            return connection.layer_dropped(key, self, multiplexed);
        }
        // A response that ended in any other way has nothing to wait for.
        let bytes_sent = match (&mut self.position, self.key) {
            (Some(position), _) => Some(
                self.response
                    .connection()
                    .progress()
                    .bytes_sent(position, response.sendable()),
            ),
            (None, Some(key)) => self.response.connection().flushed_data(key),
            (None, None) => (response.sendable() == 0).then_some(0),
        };
        response.finish(bytes_sent);
    }
}

impl Pending for ResponseDelivery {
    fn finish(&mut self, result: SendResult) {
        let Some(response) = &mut self.ended else {
            return;
        };
        let sendable = response.sendable();
        match (result, &mut self.position) {
            (SendResult::Sent, _) => response.finish(Some(sendable)),
            (SendResult::Queued, _) => response.finish(None),
            (SendResult::Lost(_), Some(position)) => {
                let progress = self.response.connection().progress();
                response.interrupt(Some(progress.bytes_sent(position, sendable)));
            }
            (SendResult::Lost(bytes_sent), None) => response.interrupt(bytes_sent),
        }
    }
}

impl Drop for ResponseDelivery {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.response.connection().remove(key);
        }
    }
}
