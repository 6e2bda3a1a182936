//! What lies in a response and tells when the server drops it: a [`Guard`] in a frame, and a [`Hold`] beside the body.

use crate::{sent_connection::SentConnection, sent_waits::Key};

/// Lies in what the server holds of a response, and tells when that is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) connection: SentConnection,
    pub(crate) dropped: Dropped,
    /// How much data there is to write, and what the connection had accepted when it was all to come, in bytes.
    pub(crate) length: u64,
    pub(crate) before: u64,
}

/// What is known of a guard that is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropped {
    pub(crate) key: Key,
    /// Whether it was in the last frame.
    pub(crate) last: bool,
    /// How much data of the body it was of.
    pub(crate) bytes: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connection.dropped(self);
    }
}

/// Is with what the server has of a response, outside of all layers, and tells when that is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) connection: SentConnection,
    pub(crate) key: Key,
    /// Whether the server had all of the response.
    pub(crate) whole: bool,
}

impl Hold {
    /// Whether tasks wait for the response.
    pub(crate) fn is_claimed(&self) -> bool {
        self.connection.is_claimed(self.key)
    }

    /// The server asks for what comes next, and so has what was before.
    pub(crate) fn asked(&self) {
        self.connection.asked(self.key);
    }

    /// A guard for the last frame, which has so much data, of which layers may have made what they like.
    pub(crate) fn last_guard(&self, length: usize) -> Option<Guard> {
        let mut guard = self.connection.guard(&mut Some(self.key), length, true)?;
        guard.dropped.bytes = 0;
        Some(guard)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.connection.let_go(self.key, self.whole);
    }
}
