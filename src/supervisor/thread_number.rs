//! [`thread_number`]: a small number for each thread.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Returns the number of this thread. Threads are numbered when they first ask, one after the other.
#[inline]
pub(super) fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
