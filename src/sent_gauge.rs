//! [`Gauge`]: how much the socket took of a connection, and at least how much of one response over HTTP/1.
//!
//! A server that speaks HTTP/1 offers all that it holds with each write, and holds no other response meanwhile. So what it had
//! last offered in vain is all that is missing of what the body had yielded before. What frames the data, as the sizes of chunks
//! do, counts as missing data, so that the figure is at most too low. What lies above the socket, as TLS, takes more than that
//! does: only what a flush has followed counts.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is told of the writes of a connection. Only the task that serves it writes here.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Whether a response over HTTP/1 has begun.
    is_asked: AtomicBool,
    /// What was accepted of all offers, in bytes, though something may hold it above the socket.
    accepted: AtomicU64,
    /// What was not accepted of the last offer, in bytes.
    refused: AtomicU64,
    /// How often it was known that the socket has what was accepted.
    settlements: AtomicU64,
    /// What the two above were then: what the socket took, and what was left of the last offer, in bytes.
    taken: AtomicU64,
    left: AtomicU64,
    flushes: AtomicU64,
}

/// Where a response stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// What the connection had taken before the response, in bytes.
    before: u64,
    /// The settlements that are accounted for.
    settlements: u64,
    /// What is known to be taken of the data, in bytes.
    known: u64,
}

impl Gauge {
    /// The server has offered so many bytes, and so many were accepted.
    pub(crate) fn offered(&self, bytes: usize, accepted: usize) {
        add(&self.accepted, accepted as u64);
        self.refused.store(bytes.saturating_sub(accepted) as u64, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Whether somebody asks what is in the socket, other than after a flush of the server's own.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// The socket has all that was accepted.
    pub(crate) fn settled(&self) {
        self.taken.store(self.accepted.load(Ordering::Relaxed), Ordering::Relaxed);
        self.left.store(self.refused.load(Ordering::Relaxed), Ordering::Relaxed);
        // Pairs with the load in `known`: who sees the settlement sees what it was.
        self.settlements.store(self.settlements.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// The server has flushed.
    pub(crate) fn flushed(&self) {
        self.settled();
        add(&self.flushes, 1);
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// A response begins.
    pub(crate) fn begin(&self) -> Mark {
        self.is_asked.store(true, Ordering::Relaxed);
        let (before, settlements) = (self.accepted.load(Ordering::Relaxed), self.settlements.load(Ordering::Relaxed));
        Mark { before, settlements, known: 0 }
    }

    /// What the socket took at least of a response over HTTP/1 that had yielded so much when this was last called.
    pub(crate) fn known(&self, mark: &mut Mark, yielded: u64) -> u64 {
        let settlements = self.settlements.load(Ordering::Acquire);
        // What was yielded after the last settlement was never offered before it.
        if std::mem::replace(&mut mark.settlements, settlements) != settlements {
            let since = self.taken.load(Ordering::Relaxed).saturating_sub(mark.before);
            let known = yielded.saturating_sub(self.left.load(Ordering::Relaxed)).min(since);
            mark.known = mark.known.max(known);
        }
        mark.known
    }
}

/// Cheaper than an atomic addition, and enough for one writer.
fn add(figure: &AtomicU64, more: u64) {
    figure.store(figure.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something offers to a socket that holds nothing back.
    fn offer(gauge: &Gauge, bytes: usize, accepted: usize) {
        gauge.offered(bytes, accepted);
        gauge.settled();
    }

    #[test]
    fn what_was_last_offered_in_vain_is_missing() {
        let gauge = Gauge::default();
        offer(&gauge, 100, 100);
        let mut mark = gauge.begin();
        assert_eq!(gauge.known(&mut mark, 0), 0);
        // A head of 20 bytes and data of 50.
        offer(&gauge, 70, 10);
        assert_eq!(gauge.known(&mut mark, 50), 0, "not even the head was taken");
        offer(&gauge, 60, 25);
        assert_eq!(gauge.known(&mut mark, 50), 15);
        // 30 more are yielded, and never offered.
        assert_eq!(gauge.known(&mut mark, 80), 15);
        offer(&gauge, 65, 0);
        assert_eq!(gauge.known(&mut mark, 80), 15);
        offer(&gauge, 65, 65);
        assert_eq!(gauge.known(&mut mark, 80), 80);
    }

    #[test]
    fn no_more_is_known_than_the_socket_took_since() {
        let gauge = Gauge::default();
        offer(&gauge, 10, 10);
        let mut mark = gauge.begin();
        // A layer has made 40 bytes out of 1,000.
        offer(&gauge, 40, 40);
        assert_eq!(gauge.known(&mut mark, 1_000), 40);
    }

    #[test]
    fn what_is_held_above_the_socket_is_not_known_to_be_taken() {
        let gauge = Gauge::default();
        assert!(!gauge.is_asked());
        let mut mark = gauge.begin();
        assert!(gauge.is_asked());
        // A head of 20 bytes and data of 100.
        offer(&gauge, 120, 50);
        gauge.offered(70, 40);
        assert_eq!(gauge.known(&mut mark, 100), 30, "TLS holds some of the 40");
        gauge.flushed();
        assert_eq!((gauge.known(&mut mark, 100), gauge.flushes()), (70, 1));
        gauge.offered(30, 30);
        let mut next = gauge.begin();
        gauge.settled();
        assert_eq!(gauge.known(&mut next, 1_000), 0, "it was of the one before");
    }
}
