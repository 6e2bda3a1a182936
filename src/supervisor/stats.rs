//! [`Stats`]: how many tasks a supervisor has, and how its tasks ended.

use std::fmt;

use super::task_state::TaskState;
use crate::task::Outcome;

/// The numbers of tasks of a supervisor, taken at one moment.
///
/// Each task that was ever added is in exactly one of these numbers at every moment: it is
/// deferred, then queued, then running, and then it has one of eight outcomes. Refused tasks were
/// never added, and they are counted apart.
///
/// `Display` prints the numbers that are not 0, such as `2 succeeded, 1 failed`. Duplicates are among
/// the skipped tasks.
///
/// # Examples
///
/// ```
/// use tower_background::Supervisor;
///
/// let stats = Supervisor::new().stats();
/// assert_eq!((stats.added(), stats.pending()), (0, 0));
/// assert_eq!(stats.to_string(), "no tasks");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Tasks whose response is open.
    pub deferred: u64,
    /// Tasks that may run, and wait for a permit, for their turn in a sequence, or for the runtime.
    pub queued: u64,
    /// Tasks that run.
    pub running: u64,
    /// Tasks that returned `()` or `Ok(())`.
    pub succeeded: u64,
    /// Tasks that returned an error.
    pub failed: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks that ran longer than their timeout.
    pub timed_out: u64,
    /// Tasks that were aborted: see [`Outcome::Aborted`](crate::Outcome::Aborted).
    pub aborted: u64,
    /// Tasks that were taken back before they started.
    pub removed: u64,
    /// Tasks that did not start: their condition did not hold, another task had their key, or a task
    /// before them failed.
    pub skipped: u64,
    /// How many of the skipped tasks had the [key](crate::Task::unique) of another task.
    pub duplicates: u64,
    /// Tasks whose shutdown fallback ran in their place.
    pub fell_back: u64,
    /// Tasks that were not taken, because the supervisor was shut down.
    pub refused: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.deferred, "deferred"),
            (self.queued, "queued"),
            (self.running, "running"),
            (self.succeeded, "succeeded"),
            (self.failed, "failed"),
            (self.panicked, "panicked"),
            (self.timed_out, "timed out"),
            (self.aborted, "aborted"),
            (self.removed, "removed"),
            (self.skipped, "skipped"),
            (self.fell_back, "fell back"),
            (self.refused, "refused"),
        ];
        let mut separator = "";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("no tasks")?;
        }
        Ok(())
    }
}

/// Counts an outcome.
pub(super) type Counter = fn(&mut Stats);

impl Stats {
    /// Returns how many tasks were ever added.
    #[must_use]
    pub const fn added(&self) -> u64 {
        self.pending() + self.ended()
    }

    /// Returns how many tasks have not ended.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.deferred + self.queued + self.running
    }

    /// Returns how many tasks have ended, in whatever way.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.succeeded
            + self.failed
            + self.panicked
            + self.timed_out
            + self.aborted
            + self.removed
            + self.skipped
            + self.fell_back
    }

    /// Returns what counts an outcome.
    pub(super) fn counter(outcome: &Outcome) -> Counter {
        match outcome {
            Outcome::Succeeded => |stats| stats.succeeded += 1,
            Outcome::Failed(_) => |stats| stats.failed += 1,
            Outcome::Panicked(_) => |stats| stats.panicked += 1,
            Outcome::TimedOut => |stats| stats.timed_out += 1,
            Outcome::Aborted => |stats| stats.aborted += 1,
            Outcome::Removed => |stats| stats.removed += 1,
            Outcome::Skipped => |stats| stats.skipped += 1,
            Outcome::FellBack => |stats| stats.fell_back += 1,
        }
    }

    /// Counts a task that was skipped because of its key.
    pub(super) const fn count_duplicate(&mut self) {
        self.skipped += 1;
        self.duplicates += 1;
    }

    /// Adds the numbers of other tasks.
    pub(super) const fn add(&mut self, other: &Self) {
        self.deferred += other.deferred;
        self.queued += other.queued;
        self.running += other.running;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.timed_out += other.timed_out;
        self.aborted += other.aborted;
        self.removed += other.removed;
        self.skipped += other.skipped;
        self.duplicates += other.duplicates;
        self.fell_back += other.fell_back;
        self.refused += other.refused;
    }

    /// Returns the number of tasks in a state.
    #[inline]
    pub(super) const fn of(&mut self, state: TaskState) -> &mut u64 {
        match state {
            TaskState::Deferred => &mut self.deferred,
            TaskState::Queued => &mut self.queued,
            TaskState::Running => &mut self.running,
        }
    }
}
