//! Counts the open responses, and closes for new ones in the same step.

use std::sync::atomic::{AtomicUsize, Ordering};

const CLOSED: usize = 1;
const RESPONSE: usize = 2;

/// One word: the lowest bit says whether the gate is closed, the rest counts. A request costs two additions to it.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicUsize);

impl Gate {
    /// Enters a response, unless the gate is closed.
    pub(crate) fn enter(&self) -> bool {
        // Acquire pairs with the release in `close`, and the release with the acquire in `is_empty`.
        let before = self.0.fetch_add(RESPONSE, Ordering::AcqRel);
        if before & CLOSED == 0 {
            return true;
        }
        self.0.fetch_sub(RESPONSE, Ordering::AcqRel);
        false
    }

    /// Lets a response out. Returns whether it was the last of a closed gate.
    pub(crate) fn leave(&self) -> bool {
        // What the response had done is seen by whoever finds the gate empty.
        self.0.fetch_sub(RESPONSE, Ordering::AcqRel) == CLOSED + RESPONSE
    }

    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
    }

    pub(crate) fn open_responses(&self) -> usize {
        self.0.load(Ordering::Acquire) / RESPONSE
    }
}
