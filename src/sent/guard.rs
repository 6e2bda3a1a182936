//! Guards that tell when the server drops a part of a response: a [`FrameGuard`] in a frame, and an
//! [`InFlight`] guard beside the body.

use std::sync::Arc;

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

/// Stays beside the response outside of all layers, and tells the connection when the server drops
/// the response.
#[derive(Debug)]
pub(super) struct InFlight {
    connection: Arc<ConnectionState>,
    key: ResponseKey,
    /// Whether the server had all of the response.
    pub(super) is_whole: bool,
}

impl InFlight {
    /// Creates a guard for a response that the server will get. Returns `None` if the connection is
    /// closed.
    pub(super) fn new(connection: &Arc<ConnectionState>, multiplexed: bool) -> Option<Self> {
        let key = connection.open(multiplexed)?;
        Some(Self {
            connection: Arc::clone(connection),
            key,
            is_whole: false,
        })
    }

    pub(super) const fn key(&self) -> ResponseKey {
        self.key
    }

    /// Returns whether tasks wait for the response.
    pub(super) fn is_claimed(&self) -> bool {
        self.connection.is_claimed(self.key)
    }

    /// Notes that the server polls the body, so it has the frames before.
    pub(super) fn note_poll(&self) {
        self.connection.note_poll(self.key);
    }

    /// Creates a guard for the last frame, which has so many bytes of data. Layers may have changed
    /// the body, so the guard does not count these bytes as data of the body.
    pub(super) fn guard_last(&self, length: usize) -> Option<FrameGuard> {
        let mut guard = FrameGuard::new(&self.connection, &mut Some(self.key), length, true)?;
        guard.frame.bytes = 0;
        Some(guard)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.server_dropped(self.key, self.is_whole);
    }
}
