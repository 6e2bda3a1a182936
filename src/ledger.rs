//! The books: where each task stands, in figures that add up at every moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{outcome::Outcome, stats::Stats};

/// The one place that counts. Its lock is held for a few additions; no request without tasks takes it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    stats: Mutex<Stats>,
    idle: Notify,
}

impl Ledger {
    pub(crate) fn stats(&self) -> Stats {
        *self.lock()
    }

    /// Enters a task, as waiting if its response is over. Returns whether it was taken.
    pub(crate) fn add(&self, released: bool) -> bool {
        let mut stats = self.lock();
        if released {
            stats.waiting += 1;
        } else {
            stats.collected += 1;
        }
        true
    }

    /// Takes collected tasks back.
    pub(crate) fn remove(&self, tasks: usize) {
        self.update(|stats| {
            stats.collected -= tasks as u64;
            stats.cancelled += tasks as u64;
        });
    }

    /// Collected tasks wait from now on.
    pub(crate) fn release(&self, tasks: usize) {
        self.update(|stats| {
            stats.collected -= tasks as u64;
            stats.waiting += tasks as u64;
        });
    }

    /// A waiting task runs from now on.
    pub(crate) fn start(&self) {
        self.update(|stats| {
            stats.waiting -= 1;
            stats.running += 1;
        });
    }

    /// A task has ended that was running, or else waiting.
    pub(crate) fn end(&self, was_running: bool, outcome: &Outcome) {
        self.update(|stats| {
            if was_running {
                stats.running -= 1;
            } else {
                stats.waiting -= 1;
            }
            *match outcome {
                Outcome::Succeeded => &mut stats.succeeded,
                Outcome::Failed(_) => &mut stats.failed,
                Outcome::Panicked(_) => &mut stats.panicked,
                Outcome::TimedOut => &mut stats.timed_out,
                Outcome::Cancelled => &mut stats.cancelled,
                Outcome::Skipped => &mut stats.skipped,
                Outcome::Refused => &mut stats.refused,
            } += 1;
        });
    }

    /// Waits until nothing is collected, waiting or running.
    pub(crate) async fn idle(&self) {
        loop {
            // Made before the figures are read: a task that ends in between still wakes it.
            let idle = self.idle.notified();
            if self.lock().pending() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn update(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.lock();
        change(&mut stats);
        let idle = stats.pending() == 0;
        drop(stats);
        if idle {
            self.idle.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stats> {
        // A panic under this lock is a bug of the books themselves, and must not become one of every request.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
