//! [`Stats`]: how many tasks a supervisor has, and how its tasks ended.

/// A supervisor's figures, taken at one moment.
///
/// Each task that was ever added is in exactly one of these figures, at every moment: it is collected, then waits, then runs,
/// then has ended in one of seven ways.
///
/// # Examples
///
/// ```
/// use tower_background::Supervisor;
///
/// let stats = Supervisor::new().stats();
/// assert_eq!((stats.added(), stats.pending()), (0, 0));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks whose response is not over.
    pub collected: u64,
    /// Tasks that were released and have not started.
    pub waiting: u64,
    /// Tasks that have started and not ended.
    pub running: u64,
    /// Tasks that ended with `()` or `Ok(())`.
    pub succeeded: u64,
    /// Tasks that returned an error.
    pub failed: u64,
    /// Tasks that panicked.
    pub panicked: u64,
    /// Tasks that ran longer than their timeout.
    pub timed_out: u64,
    /// Tasks that were taken back, or dropped before their end: the grace of a shutdown was over, or their runtime went
    /// down.
    pub cancelled: u64,
    /// Tasks that did not start, as their condition did not hold.
    pub skipped: u64,
    /// Tasks that were not taken: the supervisor is closed.
    pub refused: u64,
}

impl Stats {
    /// How many tasks were ever added: the sum of all the figures.
    #[must_use]
    pub const fn added(&self) -> u64 {
        self.pending()
            + self.succeeded
            + self.failed
            + self.panicked
            + self.timed_out
            + self.cancelled
            + self.skipped
            + self.refused
    }

    /// How many tasks have not ended: collected, waiting and running.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.collected + self.waiting + self.running
    }
}
