//! Counts the open responses, and closes for new ones in the same step.

use crate::sync::atomic::{AtomicUsize, Ordering};

const CLOSED: usize = 1;
const RESPONSE: usize = 2;

/// One word: the lowest bit says whether the gate is closed, the rest counts. A request costs two additions to it.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicUsize);

impl Gate {
    /// Counts a response, if the gate is open, and says whether it is.
    #[inline]
    pub(crate) fn enter(&self) -> bool {
        // A closed gate is left as it is: even for a moment, one more would hide that the last has left.
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| (word & CLOSED == 0).then_some(word + RESPONSE)).is_ok()
    }

    /// Lets a response out. Returns whether it was the last of a closed gate.
    pub(crate) fn leave(&self) -> bool {
        // Release pairs with the acquire in `open_responses`: who finds the gate empty sees what the response had done.
        self.0.fetch_sub(RESPONSE, Ordering::AcqRel) == CLOSED + RESPONSE
    }

    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
    }

    pub(crate) fn open_responses(&self) -> usize {
        self.0.load(Ordering::Acquire) / RESPONSE
    }
}
