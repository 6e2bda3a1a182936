//! [`Shard`]: the tasks that some threads have added, and their statistics, under one lock of the
//! [task table](super::table).

use std::{sync::Weak, task::Waker};

use tokio::time::Instant;

use super::{
    owner::{Owner, Phase},
    slots::{Key, Slots},
    stats::{Counter, Stats},
    task_state::TaskState,
};
use crate::task::Name;

/// See the module's documentation.
pub(super) struct Shard {
    pub(super) stats: Stats,
    pub(super) tasks: Slots<Entry>,
    pub(super) phase: Phase,
    /// How many tasks without a request are among the pending ones.
    without_request: u64,
    pub(super) shutdown: ShutdownCounts,
}

/// How many tasks ended in a shutdown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShutdownCounts {
    /// Within the grace.
    pub(super) finished: u64,
    /// By their fallback.
    pub(super) fell_back: u64,
    /// After they were cancelled.
    pub(super) cancelled: u64,
}

/// What the table knows of a task.
pub(super) struct Entry {
    pub(super) name: Option<Name>,
    pub(super) owner: Weak<dyn Owner>,
    pub(super) has_request: bool,
    pub(super) state: TaskState,
    /// When the task was allowed to run.
    pub(super) since: Option<Instant>,
    /// Whether the task has a fallback; once it is added, whether it runs that although the
    /// supervisor is closed.
    pub(super) is_fallback: bool,
    pub(super) stop: Option<Stop>,
    /// Wakes the task, so that it can stop. A task that has never waited has none.
    pub(super) waker: Option<Waker>,
}

/// Why a task should not run to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Remove,
    Abort,
}

impl Shard {
    /// The serial numbers of its tasks begin with `number`, and are `step` apart.
    pub(super) fn new(number: usize, step: usize) -> Self {
        Self {
            stats: Stats::default(),
            tasks: Slots::new(number as u64, step as u64),
            phase: Phase::Open,
            without_request: 0,
            shutdown: ShutdownCounts::default(),
        }
    }

    /// Returns the entry of a task that may run.
    #[inline]
    pub(super) fn runnable(&mut self, key: Key) -> Option<&mut Entry> {
        let is_sealed = self.phase == Phase::Sealed;
        let entry = self.tasks.get_mut(key)?;
        (entry.stop.is_none() && (!is_sealed || entry.is_fallback)).then_some(entry)
    }

    #[inline]
    pub(super) fn set_state(&mut self, key: Key, state: TaskState, since: Option<Instant>) {
        let Some(entry) = self.tasks.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut entry.state, state);
        entry.since = since.or(entry.since);
        *self.stats.of(before) -= 1;
        *self.stats.of(state) += 1;
    }

    /// Inserts a task, and counts it.
    #[inline]
    pub(super) fn insert(&mut self, entry: Entry) -> Key {
        *self.stats.of(entry.state) += 1;
        self.without_request += u64::from(!entry.has_request);
        self.tasks.insert(entry)
    }

    /// Removes a task, and counts its outcome.
    #[inline]
    pub(super) fn remove(&mut self, key: Key, outcome: Counter) -> Option<Entry> {
        let entry = self.tasks.remove(key)?;
        *self.stats.of(entry.state) -= 1;
        self.without_request -= u64::from(!entry.has_request);
        let fell_back = self.stats.fell_back;
        outcome(&mut self.stats);
        if self.phase != Phase::Open {
            self.count_in_shutdown(self.stats.fell_back > fell_back);
        }
        Some(entry)
    }

    /// Counts a task that ended in a shutdown.
    #[cold]
    const fn count_in_shutdown(&mut self, fell_back: bool) {
        match self.phase {
            Phase::Open | Phase::Closed | Phase::Sealed => {}
            Phase::Draining | Phase::Cancelling if fell_back => self.shutdown.fell_back += 1,
            Phase::Draining => self.shutdown.finished += 1,
            Phase::Cancelling => self.shutdown.cancelled += 1,
        }
    }

    pub(super) const fn pending_of_requests(&self) -> u64 {
        self.stats.pending() - self.without_request
    }
}
