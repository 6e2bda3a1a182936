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
    /// Creates a guard for a frame with so many bytes of the body's data. Returns `None` if nobody
    /// needs it.
    pub(super) fn new(
        connection: &Arc<ConnectionState>,
        key: ResponseKey,
        length: usize,
        is_last: bool,
    ) -> Option<Self> {
        if !connection.add_guard(key, is_last) {
            return None;
        }
        let length = length as u64;
        Some(Self {
            connection: Arc::clone(connection),
            frame: GuardedFrame {
                key,
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
    /// Not set while the response has neither a layer that follows it nor an end at the server. A
    /// response that no layer follows is not in the table of the connection.
    claim: OnceLock<Claim>,
}

/// Which was first: a layer that follows the response, or the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// A layer. The response has this key.
    Followed(ResponseKey),
    /// The server got a response that no layer followed.
    Unfollowed,
    /// The server gave up the response before it got one.
    GivenUp,
}

/// What a layer learns when it begins to follow a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    /// The key of the response, and whether this is the only layer that follows it.
    Key(ResponseKey, bool),
    /// The server got the response before. It may be a body that is still being written.
    TooLate,
    /// The server gave up the response.
    GivenUp,
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

    /// Notes that a layer follows the response, because tasks wait for it.
    pub(super) fn claim(&self) -> Claimed {
        let mut is_first = false;
        let claim = self.claim.get_or_init(|| {
            is_first = true;
            Claim::Followed(self.connection.open(self.multiplexed))
        });
        match *claim {
            Claim::Followed(key) => Claimed::Key(key, is_first || self.connection.add_layer(key)),
            Claim::Unfollowed => Claimed::TooLate,
            Claim::GivenUp => Claimed::GivenUp,
        }
    }
}

/// Stays beside the response outside of all layers, and tells the connection when the server drops
/// the response.
#[derive(Debug)]
pub(super) struct InFlight {
    response: Arc<TrackedResponse>,
    /// Whether the server had all of the response.
    pub(super) is_whole: bool,
    /// Whether the server got a response.
    pub(super) has_response: bool,
}

impl InFlight {
    pub(super) const fn new(response: Arc<TrackedResponse>) -> Self {
        Self {
            response,
            is_whole: false,
            has_response: false,
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
        let mut guard = FrameGuard::new(&self.response.connection, self.key()?, length, true)?;
        guard.frame.bytes = 0;
        Some(guard)
    }

    #[inline]
    fn key(&self) -> Option<ResponseKey> {
        match self.response.claim.get() {
            Some(Claim::Followed(key)) => Some(*key),
            _ => None,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let TrackedResponse {
            connection, claim, ..
        } = &*self.response;
        let unclaimed = if self.has_response {
            Claim::Unfollowed
        } else {
            Claim::GivenUp
        };
        if let Claim::Followed(key) = *claim.get_or_init(|| unclaimed) {
            connection.server_dropped(key, self.is_whole);
        }
    }
}

#[cfg(all(test, not(background_loom)))]
mod tests {
    use super::*;

    #[test]
    fn layers_claim_a_response_before_the_server_drops_it() {
        let open = || Arc::new(TrackedResponse::new(Arc::default(), Method::GET, true));
        let response = open();
        let in_flight = InFlight::new(Arc::clone(&response));
        assert!(!in_flight.is_claimed());
        let Claimed::Key(key, true) = response.claim() else {
            panic!("it is the only layer");
        };
        assert!(in_flight.is_claimed());
        let again = response.claim();
        assert_eq!(again, Claimed::Key(key, false), "another layer has it");

        for (has_response, claimed) in [(false, Claimed::GivenUp), (true, Claimed::TooLate)] {
            let response = open();
            let mut in_flight = InFlight::new(Arc::clone(&response));
            in_flight.has_response = has_response;
            drop(in_flight);
            assert_eq!(response.claim(), claimed);
        }
    }
}
