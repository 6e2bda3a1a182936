//! [`ResponseDelivery`]: follows a response from the layer to the socket, on a tracked connection.
//!
//! Over HTTP/1 a server has one response at a time. So the flush after the server dropped a
//! response is a flush of all of it.
//!
//! Over HTTP/2 a server queues frames, and writes them when the client allows it. [`SentBody`]
//! guards the last frame, whose guard tells when the response was written. This file guards the
//! data frames before that one. Their guards tell how much of a lost response was written.
//!
//! [`SentBody`]: super::SentBody

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;

use super::{
    entry::SendResult,
    frames::guard_data,
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
            key: None,
            guards_data: false,
            ended: None,
        })
    }
}

/// See the module's documentation.
struct ResponseDelivery {
    response: Arc<TrackedResponse>,
    /// Where the response stands in the writes of its connection, over HTTP/1.
    position: Option<Position>,
    /// The response in the table of its connection. `None` if the server was first.
    key: Option<ResponseKey>,
    /// Whether this layer guards data. Only one layer does, or the data would count twice.
    guards_data: bool,
    /// What the layer leaves of the response when it drops the body.
    ended: Option<EndedResponse>,
}

impl ResponseDelivery {
    const fn is_multiplexed(&self) -> bool {
        self.position.is_none()
    }

    /// Notes that the body has yielded so many bytes, and more is coming.
    fn note_yielded(&mut self, bytes: u64) {
        if let Some(position) = &mut self.position {
            self.response.bytes_sent(position, bytes);
        }
    }
}

impl Delivery for ResponseDelivery {
    fn head(&mut self) {
        if let Some((key, is_only)) = self.response.claim() {
            self.key = Some(key);
            self.guards_data = is_only && self.is_multiplexed();
        }
    }

    fn data(&mut self, data: Option<&mut Bytes>, length: usize, is_last: bool, before: u64) {
        self.note_yielded(before);
        if is_last || length == 0 || !self.guards_data {
            return;
        }
        if let (Some(data), Some(key)) = (data, self.key) {
            let guard = FrameGuard::new(self.response.connection(), key, length, false);
            guard_data(data, guard);
        }
    }

    fn trailers(&mut self, before: u64) {
        self.note_yielded(before);
    }

    fn wait(mut self: Box<Self>, mut response: EndedResponse) {
        if response.is_complete() {
            let Some(key) = self.key.take() else {
                // The server sends nothing of it.
                return response.interrupt(Some(0));
            };
            self.ended = Some(response);
            let connection = Arc::clone(self.response.connection());
            return connection.layer_dropped(key, self);
        }
        // A response that ended in any other way has nothing to wait for.
        let bytes_sent = match (&mut self.position, self.key) {
            (Some(position), _) => Some(self.response.bytes_sent(position, response.sendable())),
            (None, Some(key)) if self.guards_data => self.response.connection().flushed_data(key),
            (None, _) => (response.sendable() == 0).then_some(0),
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
                let bytes_sent = self.response.bytes_sent(position, sendable);
                response.interrupt(Some(bytes_sent));
            }
            (SendResult::Lost(bytes_sent), None) => {
                response.interrupt(bytes_sent.filter(|_| self.guards_data));
            }
        }
    }
}

impl Drop for ResponseDelivery {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.response.connection().remove_layer(key);
        }
    }
}
