//! [`Supervisor`]: owns what runs after the responses of one process.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::{
    builder::{Policy, SupervisorBuilder},
    gate::Gate,
    lane::Lane,
    ledger::Ledger,
    meter,
    observer::Observers,
    report::RunningTask,
    shutdown::ShutdownReport,
    stats::Stats,
    sync::{
        Notify,
        atomic::{AtomicBool, Ordering},
    },
};

/// Owns every task that runs after a response: policy, limits, shutdown and figures.
///
/// There is one per process as a rule, shared by any number of layers. It is a cheap handle: its clones are the same
/// supervisor, and equal. Dropping all of them ends no task.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::{BackgroundLayer, Supervisor};
///
/// let supervisor = Supervisor::builder().max_concurrent(256).release_after(Duration::from_secs(30)).build();
/// let layer = BackgroundLayer::with(supervisor.clone());
/// assert_eq!(layer.supervisor(), &supervisor);
/// assert_eq!(supervisor.stats().pending(), 0);
/// ```
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    policy: Policy,
    observers: Observers,
    gate: Gate,
    ledger: Ledger,
    lane: Lane,
    blocking_lane: Lane,
    cancel: CancellationToken,
    abort: CancellationToken,
    /// Whether this is cancelled: each task asks, and a token would take a lock to answer.
    is_aborted: AtomicBool,
    /// Whether it was said that nothing tells when a socket takes the last byte.
    is_untracked_told: AtomicBool,
    /// Told when the last open response of a closed gate has ended.
    no_response: Notify,
    /// What a shutdown has come to.
    report: OnceLock<ShutdownReport>,
}

impl Supervisor {
    /// A supervisor without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A supervisor with limits, an order and observers of one's own choice.
    pub fn builder() -> SupervisorBuilder {
        SupervisorBuilder::default()
    }

    pub(crate) fn with(policy: Policy, observers: Observers) -> Self {
        Self {
            inner: Arc::new(Inner {
                gate: Gate::default(),
                ledger: Ledger::new(policy.max_pending),
                lane: Lane::new(policy.max_concurrent),
                blocking_lane: Lane::new(policy.max_blocking),
                cancel: CancellationToken::new(),
                abort: CancellationToken::new(),
                is_aborted: AtomicBool::new(false),
                is_untracked_told: AtomicBool::new(false),
                no_response: Notify::new(),
                report: OnceLock::new(),
                policy,
                observers,
            }),
        }
    }

    /// The figures of this moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Supervisor;
    ///
    /// let supervisor = Supervisor::new();
    /// println!("{} tasks run", supervisor.stats().running);
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.ledger.stats()
    }

    /// Every task that waits or runs, the oldest first: what one wants to see when a task hangs.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Supervisor;
    ///
    /// for task in Supervisor::new().running() {
    ///     println!("{:?} of {} {} for {:?}", task.name(), task.method(), task.path(), task.age());
    /// }
    /// ```
    #[must_use]
    pub fn running(&self) -> Vec<RunningTask> {
        self.inner.ledger.running()
    }

    /// How many responses are open: from the call of the service to the end of the response.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Supervisor;
    ///
    /// assert_eq!(Supervisor::new().open_responses(), 0);
    /// ```
    #[must_use]
    pub fn open_responses(&self) -> usize {
        self.inner.gate.open_responses()
    }

    /// Waits until nothing is collected, waiting or running: what a test awaits before it looks at what the tasks did.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use tower_background::Supervisor;
    ///
    /// let supervisor = Supervisor::new();
    /// supervisor.idle().await;
    /// assert_eq!(supervisor.stats().pending(), 0);
    /// # }
    /// ```
    pub async fn idle(&self) {
        self.inner.ledger.idle().await;
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.inner.observers
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    pub(crate) fn no_response(&self) -> &Notify {
        &self.inner.no_response
    }

    pub(crate) fn report(&self) -> &OnceLock<ShutdownReport> {
        &self.inner.report
    }

    /// The places for tasks of this kind.
    pub(crate) fn lane(&self, blocking: bool) -> &Lane {
        if blocking { &self.inner.blocking_lane } else { &self.inner.lane }
    }

    /// Whether somebody wants to know how long tasks wait and run.
    pub(crate) fn is_timed(&self) -> bool {
        meter::IS_ON || !self.inner.observers.is_empty()
    }

    pub(crate) fn cancel_token(&self) -> &CancellationToken {
        &self.inner.cancel
    }

    pub(crate) fn abort_token(&self) -> &CancellationToken {
        &self.inner.abort
    }

    /// Tells what runs to come to its end.
    pub(crate) fn cancel(&self) {
        self.inner.cancel.cancel();
    }

    /// Drops what still runs, and lets nothing more start.
    pub(crate) fn abort(&self) {
        // Before the token wakes who waits for it.
        self.inner.is_aborted.store(true, Ordering::Release);
        self.inner.abort.cancel();
    }

    #[inline]
    pub(crate) fn is_aborted(&self) -> bool {
        self.inner.is_aborted.load(Ordering::Acquire)
    }

    pub(crate) fn aborted(&self) -> WaitForCancellationFuture<'_> {
        self.inner.abort.cancelled()
    }

    /// Says that the tasks of this path were to wait for the last byte on a connection that is not tracked. It is said once, as
    /// it is so of all others that are served like that.
    pub(crate) fn warn_untracked(&self, path: &str) {
        if !self.inner.is_untracked_told.swap(true, Ordering::Relaxed) {
            crate::log::warn!(path = path, "tasks were to wait for the last byte, but nothing tells when the socket takes it");
        }
    }

    /// Enters a response. Returns whether its tasks are taken.
    #[inline]
    pub(crate) fn open_response(&self) -> bool {
        self.inner.gate.enter()
    }

    /// Lets a response out that was entered.
    pub(crate) fn close_response(&self, admitted: bool) {
        if admitted && self.inner.gate.leave() {
            self.inner.no_response.notify_waiters();
        }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

/// Two handles are equal if they are of the same supervisor.
impl PartialEq for Supervisor {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Supervisor {}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("policy", &self.inner.policy)
            .field("open_responses", &self.open_responses())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
