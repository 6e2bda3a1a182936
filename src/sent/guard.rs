//! Guards that tell when the server drops a part of a response: a [`FrameGuard`] in a frame, and an
//! [`InFlight`] guard beside the body.

use std::sync::{Arc, OnceLock};

use http::Method;

use super::{
    pending::{GuardedFrame, ResponseKey},
    state::ConnectionState,
};

/// Lies in a frame of a response, and tells the connection when the frame is dropped.
#[derive(Debug)]
pub(super) struct FrameGuard {
    connection: Arc<ConnectionState>,
    frame: GuardedFrame,
    /// How many bytes of data the server has to write for the frame.
    length: u64,
    /// How many bytes the connection had accepted when the frame was created.
    accepted_before: u64,
}

impl FrameGuard {
    /// Creates a guard for a frame with so many bytes of the body's data. A response without a key
    /// gets one. Returns `None` if the connection is closed.
    pub(super) fn new(
        connection: &Arc<ConnectionState>,
        key: &mut Option<ResponseKey>,
        length: usize,
        is_last: bool,
    ) -> Option<Self> {
        let added = connection.add_guard(*key, is_last)?;
        *key = Some(added);
        let length = length as u64;
        Some(Self {
            connection: Arc::clone(connection),
            frame: GuardedFrame {
                key: added,
                is_last,
                bytes: length,
            },
            length,
            accepted_before: connection.progress().accepted(),
        })
    }
}

impl Drop for FrameGuard {
    fn drop(&mut self) {
        self.connection
            .guard_dropped(self.frame, self.length, self.accepted_before);
    }
}

/// A response that the server will get. The server's side and the layers of this crate share it.
#[derive(Debug)]
pub(super) struct TrackedResponse {
    connection: Arc<ConnectionState>,
    method: Method,
    /// Whether the connection sends several responses at once, from a queue.
    multiplexed: bool,
    /// The key of the response, once tasks wait for it. `Some(None)` if the server dropped the
    /// response before. A response that no task waits for is not in the table of the connection.
    claim: OnceLock<Option<ResponseKey>>,
}

impl TrackedResponse {
    pub(super) const fn new(
        connection: Arc<ConnectionState>,
        method: Method,
        multiplexed: bool,
    ) -> Self {
        Self {
            connection,
            method,
            multiplexed,
            claim: OnceLock::new(),
        }
    }

    pub(super) const fn connection(&self) -> &Arc<ConnectionState> {
        &self.connection
    }

    pub(super) const fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// Notes that tasks wait for the response. Returns `None` if another layer has noted that, or
    /// the server has dropped the response.
    pub(super) fn claim(&self) -> Option<ResponseKey> {
        let mut claimed = None;
        self.claim.get_or_init(|| {
            claimed = Some(self.connection.open(self.multiplexed));
            claimed
        });
        claimed
    }
}

/// Stays beside the response outside of all layers, and tells the connection when the server drops
/// the response.
#[derive(Debug)]
pub(super) struct InFlight {
    response: Arc<TrackedResponse>,
    /// Whether the server had all of the response.
    pub(super) is_whole: bool,
}

impl InFlight {
    pub(super) const fn new(response: Arc<TrackedResponse>) -> Self {
        Self {
            response,
            is_whole: false,
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.response.method
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.response.multiplexed
    }

    /// Returns whether tasks wait for the response.
    #[inline]
    pub(super) fn is_claimed(&self) -> bool {
        self.key().is_some()
    }

    /// Notes that the server polls the body, so it has the frames before.
    #[inline]
    pub(super) fn note_poll(&self) {
        if let Some(key) = self.key() {
            self.response.connection.note_poll(key);
        }
    }

    /// Creates a guard for the last frame, which has so many bytes of data. Layers may have changed
    /// the body, so the guard does not count these bytes as data of the body.
    pub(super) fn guard_last(&self, length: usize) -> Option<FrameGuard> {
        let mut key = Some(self.key()?);
        let mut guard = FrameGuard::new(&self.response.connection, &mut key, length, true)?;
        guard.frame.bytes = 0;
        Some(guard)
    }

    #[inline]
    fn key(&self) -> Option<ResponseKey> {
        self.response.claim.get().copied().flatten()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let TrackedResponse {
            connection, claim, ..
        } = &*self.response;
        if let Some(key) = *claim.get_or_init(|| None) {
            connection.server_dropped(key, self.is_whole);
        }
    }
}

#[cfg(all(test, not(background_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_layer_claims_a_response_before_the_server_drops_it() {
        let open = || Arc::new(TrackedResponse::new(Arc::default(), Method::GET, true));
        let response = open();
        let in_flight = InFlight::new(Arc::clone(&response));
        assert!(!in_flight.is_claimed());
        assert!(response.claim().is_some());
        assert!(in_flight.is_claimed());
        assert_eq!(response.claim(), None, "another layer has claimed it");

        let response = open();
        drop(InFlight::new(Arc::clone(&response)));
        assert_eq!(response.claim(), None, "the server has dropped it");
    }
}
