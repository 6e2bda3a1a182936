//! Guards that tell when the server drops a part of a response: a [`FrameGuard`] in a frame, and an
//! [`InFlight`] guard beside the body.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use http::Method;

use super::{
    pending::{GuardedFrame, ResponseKey},
    state::ConnectionState,
    write_progress::Position,
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
    /// How many bytes the connection had accepted when the server got the head. `u64::MAX` before
    /// that.
    accepted_before: AtomicU64,
    /// Not set while the response has neither a layer that follows it nor an end at the server. A
    /// response that no layer follows is not in the table of the connection.
    claim: OnceLock<Claim>,
}

/// Which was first: a layer that follows the response, or the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// A layer. The response has this key.
    Followed(ResponseKey),
    /// The server. It has dropped the response.
    Dropped,
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
            accepted_before: AtomicU64::new(u64::MAX),
            claim: OnceLock::new(),
        }
    }

    pub(super) const fn connection(&self) -> &Arc<ConnectionState> {
        &self.connection
    }

    pub(super) const fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// Returns how many bytes of the response's data the socket took at least, over HTTP/1. See
    /// [`WriteProgress::bytes_sent`](super::write_progress::WriteProgress::bytes_sent).
    pub(super) fn bytes_sent(&self, position: &mut Position, yielded: u64) -> u64 {
        let progress = self.connection.progress();
        progress.bytes_sent(position, yielded, || {
            self.accepted_before.load(Ordering::Relaxed)
        })
    }

    /// Notes that a layer follows the response, because tasks wait for it. Returns the key of the
    /// response, and whether this is the only layer that follows it. Returns `None` if the server has
    /// dropped the response, so that it will not send what the layer has.
    pub(super) fn claim(&self) -> Option<(ResponseKey, bool)> {
        let mut is_first = false;
        let claim = self.claim.get_or_init(|| {
            is_first = true;
            Claim::Followed(self.connection.open(self.multiplexed))
        });
        let Claim::Followed(key) = *claim else {
            return None;
        };
        let is_only = is_first || self.connection.add_layer(key)?;
        Some((key, is_only))
    }
}

/// Stays beside the response outside of all layers, and tells the connection when the server drops
/// the response.
#[derive(Debug)]
pub(super) struct InFlight {
    response: Arc<TrackedResponse>,
    /// Whether the server had all of the response.
    is_whole: AtomicBool,
}

impl InFlight {
    pub(super) const fn new(response: Arc<TrackedResponse>) -> Self {
        Self {
            response,
            is_whole: AtomicBool::new(false),
        }
    }

    /// Notes that the server got the head of the response.
    pub(super) fn note_head(&self) {
        let accepted = self.response.connection.progress().accepted();
        self.response
            .accepted_before
            .store(accepted, Ordering::Relaxed);
    }

    /// Notes whether the server has all of the response now.
    pub(super) fn note_whole(&self, is_whole: bool) {
        self.is_whole.store(is_whole, Ordering::Relaxed);
    }

    pub(super) fn method(&self) -> &Method {
        &self.response.method
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.response.multiplexed
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
        if let Claim::Followed(key) = *claim.get_or_init(|| Claim::Dropped) {
            connection.server_dropped(key, self.is_whole.load(Ordering::Relaxed));
        }
    }
}

#[cfg(all(test, not(background_loom)))]
mod tests {
    use super::{
        super::{entry::SendResult, state::Pending},
        *,
    };

    #[test]
    fn layers_claim_a_response_before_the_server_drops_it() {
        let open = || Arc::new(TrackedResponse::new(Arc::default(), Method::GET, true));
        let response = open();
        let in_flight = InFlight::new(Arc::clone(&response));
        let Some((key, true)) = response.claim() else {
            panic!("it is the only layer");
        };
        let again = response.claim();
        assert_eq!(again, Some((key, false)), "another layer has it");
        response.connection().remove_layer(key);
        response.connection().remove_layer(key);
        drop(in_flight);
        assert_eq!(response.claim(), None, "it is too late");

        let response = open();
        drop(InFlight::new(Arc::clone(&response)));
        assert_eq!(response.claim(), None, "it is too late");
    }

    struct Noted(Arc<std::sync::Mutex<Option<SendResult>>>);

    impl Pending for Noted {
        fn finish(&mut self, result: SendResult) {
            *self.0.lock().unwrap() = Some(result);
        }
    }

    /// h2 copies short pieces of data into its buffer, as many as fit. The next write offers them.
    #[tokio::test]
    async fn the_next_write_tells_what_the_server_has_copied() {
        let lost = SendResult::Lost(Some(0));
        for (offered, expected) in [(4_009, SendResult::Sent), (100, lost), (0, lost)] {
            let result = Arc::default();
            let noted = Noted(Arc::clone(&result));
            let serving = tokio::spawn(async move {
                let state = Arc::<ConnectionState>::default();
                state.before_read();
                state.after_read(false);
                let key = state.open(true);
                let guard = FrameGuard::new(&state, key, 4_000, true);
                state.layer_dropped(key, Box::new(noted));
                state.server_dropped(key, true);
                drop(guard);
                state.before_write(offered);
                state.note_flush();
            });
            serving.await.unwrap();
            assert_eq!(*result.lock().unwrap(), Some(expected), "{offered}");
        }
    }
}
