//! [`Gauge`]: how much the socket took of a connection, and at least how much of one response over HTTP/1.
//!
//! A server that speaks HTTP/1 offers all that it holds with each write, and holds no other response meanwhile. So what it had
//! last offered in vain is all that is missing of what the body had yielded before. What frames the data, as the sizes of chunks
//! do, counts as missing data, so that the figure is at most too low.

use crate::sync::atomic::{AtomicU64, Ordering};

/// What is told of the writes of a connection. Only the task that serves it writes here.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    offers: AtomicU64,
    /// What was taken of all offers, in bytes.
    taken: AtomicU64,
    /// What was not taken of the last one, in bytes.
    left: AtomicU64,
    flushes: AtomicU64,
}

/// Where a response stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// What the connection had taken before the response, in bytes.
    before: u64,
    /// The offers that are accounted for.
    offers: u64,
    /// What is known to be taken of the data, in bytes.
    known: u64,
}

impl Gauge {
    /// The server has offered so many bytes, and so many were taken.
    pub(crate) fn offered(&self, bytes: usize, taken: usize) {
        add(&self.taken, taken as u64);
        self.left.store(bytes.saturating_sub(taken) as u64, Ordering::Relaxed);
        // Pairs with the load in `known`: who sees the offer sees what was left of it.
        self.offers.store(self.offers.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// All that was offered before is in the socket.
    pub(crate) fn flushed(&self) {
        add(&self.flushes, 1);
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// A response begins.
    pub(crate) fn begin(&self) -> Mark {
        Mark { before: self.taken.load(Ordering::Relaxed), offers: self.offers.load(Ordering::Relaxed), known: 0 }
    }

    /// What the socket took at least of a response over HTTP/1 that had yielded so much when this was last called.
    pub(crate) fn known(&self, mark: &mut Mark, yielded: u64) -> u64 {
        let offers = self.offers.load(Ordering::Acquire);
        // What was yielded after the last offer was never offered.
        if std::mem::replace(&mut mark.offers, offers) != offers {
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

    #[test]
    fn what_was_last_offered_in_vain_is_missing() {
        let gauge = Gauge::default();
        gauge.offered(100, 100);
        let mut mark = gauge.begin();
        assert_eq!(gauge.known(&mut mark, 0), 0);
        // A head of 20 bytes and data of 50.
        gauge.offered(70, 10);
        assert_eq!(gauge.known(&mut mark, 50), 0, "not even the head was taken");
        gauge.offered(60, 25);
        assert_eq!(gauge.known(&mut mark, 50), 15);
        // 30 more are yielded, and never offered.
        assert_eq!(gauge.known(&mut mark, 80), 15);
        gauge.offered(65, 0);
        assert_eq!(gauge.known(&mut mark, 80), 15);
        gauge.offered(65, 65);
        assert_eq!(gauge.known(&mut mark, 80), 80);
    }

    #[test]
    fn no_more_is_known_than_the_socket_took_since() {
        let gauge = Gauge::default();
        gauge.offered(10, 10);
        let mut mark = gauge.begin();
        // A layer has made 40 bytes out of 1,000.
        gauge.offered(40, 40);
        assert_eq!(gauge.known(&mut mark, 1_000), 40);
    }
}
