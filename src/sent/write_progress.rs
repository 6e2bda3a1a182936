//! [`WriteProgress`]: how many bytes of a connection the socket took, and how many of one response
//! over HTTP/1.
//!
//! An HTTP/1 server has one response at a time, and offers all its bytes with each write. So of the
//! data that the body had yielded before the last write, only those bytes can be missing that this
//! write offered and the socket refused. If a write may not offer all, it counts as an offer of
//! `usize::MAX` bytes. The refused bytes may include framing, such as chunk sizes. It counts as data,
//! so the result can be too low but never too high.
//!
//! TLS accepts more bytes than the socket takes. So bytes only count when they have been flushed.

use crate::util::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The writes of a connection. Only the task that serves the connection writes here.
#[derive(Debug, Default)]
pub(super) struct WriteProgress {
    /// Whether a response over HTTP/1 has started. Only such responses need an update after each
    /// write.
    serves_http1: AtomicBool,
    /// How many bytes all writes accepted. TLS may still hold some of them.
    accepted: AtomicU64,
    /// How many bytes the last write offered, and the connection did not accept.
    refused: AtomicU64,
    /// How often it was known that the socket had all accepted bytes.
    updates: AtomicU64,
    /// `accepted` at the last update: how many bytes the socket took.
    taken: AtomicU64,
    /// `refused` at the last update.
    left: AtomicU64,
    flushes: AtomicU64,
}

/// Where a response stands in the writes of its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The updates that `sent` accounts for.
    updates: u64,
    /// How many bytes of the data the socket took at least.
    sent: u64,
}

impl WriteProgress {
    /// Notes a write that offered and accepted so many bytes.
    #[inline]
    pub(super) fn note_write(&self, offered: usize, accepted: usize) {
        increase(&self.accepted, accepted as u64);
        self.refused
            .store(offered.saturating_sub(accepted) as u64, Ordering::Relaxed);
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns whether a response over HTTP/1 has started. Then each write may need an update, and
    /// not only each flush.
    #[inline]
    pub(super) fn serves_http1(&self) -> bool {
        self.serves_http1.load(Ordering::Relaxed)
    }

    /// Notes that the socket has all accepted bytes.
    pub(super) fn note_taken(&self) {
        self.taken
            .store(self.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
        self.left
            .store(self.refused.load(Ordering::Relaxed), Ordering::Relaxed);
        // Pairs with the load in `bytes_sent`: a thread that sees the update sees its numbers.
        let updates = self.updates.load(Ordering::Relaxed).wrapping_add(1);
        self.updates.store(updates, Ordering::Release);
    }

    /// Notes that the server has flushed.
    pub(super) fn note_flush(&self) {
        self.note_taken();
        increase(&self.flushes, 1);
    }

    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Notes that a response over HTTP/1 starts.
    pub(super) fn start_response(&self) -> Position {
        self.serves_http1.store(true, Ordering::Relaxed);
        Position {
            updates: self.updates.load(Ordering::Relaxed),
            sent: 0,
        }
    }

    /// Returns how many bytes of a response over HTTP/1 the socket took at least. `yielded` is how
    /// many bytes the body had yielded when this was last called. `before` is how many bytes the
    /// connection had accepted when the server got the head: what it accepted until then belongs to
    /// other responses. It is read after the last update, so that it is known if the update is.
    pub(super) fn bytes_sent(
        &self,
        position: &mut Position,
        yielded: u64,
        before: impl FnOnce() -> u64,
    ) -> u64 {
        let updates = self.updates.load(Ordering::Acquire);
        // Data that was yielded after the last update was not offered before the update.
        if std::mem::replace(&mut position.updates, updates) != updates {
            let since = self.taken.load(Ordering::Relaxed).saturating_sub(before());
            let sent = yielded
                .saturating_sub(self.left.load(Ordering::Relaxed))
                .min(since);
            position.sent = position.sent.max(sent);
        }
        position.sent
    }
}

/// Adds to a counter. This is cheaper than an atomic addition, and enough because only one task
/// writes.
fn increase(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes to a socket that has no buffer of its own.
    fn write(progress: &WriteProgress, offered: usize, accepted: usize) {
        progress.note_write(offered, accepted);
        progress.note_taken();
    }

    #[test]
    fn bytes_that_were_last_offered_in_vain_are_missing() {
        let progress = WriteProgress::default();
        write(&progress, 100, 100);
        let mut position = progress.start_response();
        assert_eq!(progress.bytes_sent(&mut position, 0, || 100), 0);
        // A head of 20 bytes and data of 50.
        write(&progress, 70, 10);
        assert_eq!(
            progress.bytes_sent(&mut position, 50, || 100),
            0,
            "the socket did not take all of the head"
        );
        write(&progress, 60, 25);
        assert_eq!(progress.bytes_sent(&mut position, 50, || 100), 15);
        // 30 more bytes are yielded, and not offered yet.
        assert_eq!(progress.bytes_sent(&mut position, 80, || 100), 15);
        write(&progress, 65, 0);
        assert_eq!(progress.bytes_sent(&mut position, 80, || 100), 15);
        write(&progress, 65, 65);
        assert_eq!(progress.bytes_sent(&mut position, 80, || 100), 80);
    }

    #[test]
    fn no_more_is_sent_than_the_socket_took_since() {
        let progress = WriteProgress::default();
        write(&progress, 10, 10);
        let mut position = progress.start_response();
        // A layer has compressed 1,000 bytes to 40.
        write(&progress, 40, 40);
        assert_eq!(progress.bytes_sent(&mut position, 1_000, || 10), 40);
    }

    #[test]
    fn bytes_that_tls_holds_are_not_sent() {
        let progress = WriteProgress::default();
        assert!(!progress.serves_http1());
        let mut position = progress.start_response();
        assert!(progress.serves_http1());
        // A head of 20 bytes and data of 100.
        write(&progress, 120, 50);
        progress.note_write(70, 40);
        assert_eq!(
            progress.bytes_sent(&mut position, 100, || 0),
            30,
            "TLS holds some of the 40"
        );
        progress.note_flush();
        assert_eq!(
            (
                progress.bytes_sent(&mut position, 100, || 0),
                progress.flushes()
            ),
            (70, 1)
        );
        progress.note_write(30, 30);
        let mut next = progress.start_response();
        progress.note_taken();
        assert_eq!(
            progress.bytes_sent(&mut next, 1_000, || 120),
            0,
            "it was data of the response before"
        );
    }
}
