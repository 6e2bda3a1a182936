//! [`Supervisor`]: the shared handle.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::futures::OwnedNotified;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    builder::SupervisorBuilder,
    config::Config,
    limits::{Acquire, Limits},
    observer::Observers,
    owner::Owner,
    report::{Busy, ShutdownReport, TaskInfo},
    shard::Stop,
    slots::Key,
    stats::Stats,
    table::TaskTable,
    unique::UniqueKeys,
};
use crate::{
    task::Limit,
    util::{Text, trace},
};

/// Owns all tasks of a process: it limits, counts, lists, awaits and aborts them.
///
/// You usually have one for each process, and share it between all layers. A `Supervisor` is a
/// cheap handle: clones are the same supervisor, and compare equal. Dropping all handles aborts no
/// task.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::{BackgroundLayer, Supervisor};
///
/// let supervisor = Supervisor::builder().max_concurrent(256).task_timeout(Duration::from_secs(60)).build();
/// let layer = BackgroundLayer::with_supervisor(supervisor.clone());
/// assert_eq!(layer.supervisor(), &supervisor);
/// assert_eq!(supervisor.stats().pending(), 0);
/// ```
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    table: TaskTable,
    limits: Limits,
    unique_keys: UniqueKeys,
    /// Counts the open responses.
    responses: TaskTracker,
    /// Cancelled by `begin_shutdown`.
    stopping: CancellationToken,
    /// Cancelled when the grace of a shutdown is over.
    cancel: CancellationToken,
    /// Cancelled when a shutdown aborts the rest.
    abort: CancellationToken,
    /// Whether `cancel` is cancelled, because the token takes a lock to say so.
    is_cancelled: AtomicBool,
    warned_of_two_supervisors: AtomicBool,
    warned_of_untracked: AtomicBool,
    /// The tasks that were left when a shutdown aborted the rest.
    abandoned: OnceLock<Vec<TaskInfo>>,
    report: OnceLock<ShutdownReport>,
}

impl Supervisor {
    /// Creates a supervisor without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder for a supervisor with limits, an order and observers.
    pub fn builder() -> SupervisorBuilder {
        SupervisorBuilder::default()
    }

    pub(super) fn with_config(config: Config) -> Self {
        Self {
            inner: Arc::new(Inner {
                table: TaskTable::new(config.max_pending),
                limits: Limits::new(config.max_concurrent, config.max_blocking),
                unique_keys: UniqueKeys::default(),
                responses: TaskTracker::new(),
                stopping: CancellationToken::new(),
                cancel: CancellationToken::new(),
                abort: CancellationToken::new(),
                is_cancelled: AtomicBool::new(false),
                warned_of_two_supervisors: AtomicBool::new(false),
                warned_of_untracked: AtomicBool::new(false),
                abandoned: OnceLock::new(),
                report: OnceLock::new(),
                config,
            }),
        }
    }

    /// Returns the numbers of tasks at this moment.
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
        self.inner.table.stats()
    }

    /// Returns every task that has not ended, with the highest [age](TaskInfo::age) first. Look here
    /// when a task hangs.
    ///
    /// It is no snapshot: a task that starts or ends meanwhile may be missing, or may be listed in
    /// its old state.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::Supervisor;
    ///
    /// for task in Supervisor::new().tasks() {
    ///     println!("{task} since {:?}", task.age());
    /// }
    /// ```
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.inner.table.tasks()
    }

    /// Returns how many responses are open, each counted from the call of the service to the end of
    /// its response.
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
        self.inner.responses.len()
    }

    /// Waits until no task is deferred, queued or running. Tasks of an open response are deferred,
    /// so drop the response or read its body first. In tests use
    /// [`idle_within`](Self::idle_within), which says what it waits for.
    ///
    /// # Cancel safety
    ///
    /// You can drop the future at any time and wait again.
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
        self.inner.table.idle().await;
    }

    /// Waits like [`idle`](Self::idle), but not longer than `time`.
    ///
    /// # Errors
    ///
    /// Returns [`Busy`] if there are tasks left: its text names them and says what to do about open
    /// responses.
    ///
    /// # Panics
    ///
    /// Panics if it is polled on a runtime without a [time
    /// driver](tokio::runtime::Builder::enable_time).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::time::Duration;
    /// use tower_background::Supervisor;
    ///
    /// let supervisor = Supervisor::new();
    /// supervisor.idle_within(Duration::from_secs(5)).await.unwrap();
    /// # }
    /// ```
    pub async fn idle_within(&self, time: Duration) -> Result<(), Busy> {
        let idle = tokio::time::timeout(time, self.idle()).await;
        idle.map_err(|_| Busy {
            tasks: self.tasks(),
            open_responses: self.open_responses(),
        })
    }

    #[inline]
    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    #[inline]
    pub(crate) fn observers(&self) -> &Observers {
        &self.inner.config.observers
    }

    #[inline]
    pub(super) fn table(&self) -> &TaskTable {
        &self.inner.table
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(super) fn responses(&self) -> &TaskTracker {
        &self.inner.responses
    }

    pub(super) fn abandoned(&self) -> &OnceLock<Vec<TaskInfo>> {
        &self.inner.abandoned
    }

    pub(super) fn report(&self) -> &OnceLock<ShutdownReport> {
        &self.inner.report
    }

    pub(super) fn stopping_token(&self) -> &CancellationToken {
        &self.inner.stopping
    }

    pub(super) fn abort_token(&self) -> &CancellationToken {
        &self.inner.abort
    }

    /// Returns the token that tells tasks to stop.
    #[inline]
    pub(crate) fn cancel_token(&self) -> &CancellationToken {
        &self.inner.cancel
    }

    /// Asks all tasks to stop.
    pub(super) fn cancel(&self) {
        // Before the token, because a task that the token wakes reads this.
        self.inner.is_cancelled.store(true, Ordering::Release);
        self.inner.cancel.cancel();
    }

    /// Returns whether the grace of a shutdown is over.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled.load(Ordering::Acquire)
    }

    /// Returns how long a cancelled task or a shutdown fallback has to finish.
    pub(crate) fn abort_after(&self) -> Duration {
        self.inner.config.abort_after
    }

    /// Counts a response as open until the token is dropped. Returns `None` if the supervisor takes
    /// no further requests.
    pub(crate) fn open_response(&self) -> Option<TaskTrackerToken> {
        // Checked before, so that requests after a shutdown are never counted, and after that, so
        // that a shutdown that starts in between waits for this one.
        if self.inner.responses.is_closed() {
            return None;
        }
        let token = self.inner.responses.token();
        (!self.inner.responses.is_closed()).then_some(token)
    }

    /// Returns whether tasks of requests need permits.
    pub(crate) fn limits_tasks(&self) -> bool {
        self.inner.limits.are_set()
    }

    /// Takes the permits for a task, or the last place in the queue for them. To a task without a
    /// request, only its own limit applies.
    pub(crate) fn acquire(
        &self,
        limit: Option<&Limit>,
        has_request: bool,
        is_blocking: bool,
    ) -> Acquire {
        let shared = if has_request {
            self.inner.limits.of(is_blocking)
        } else {
            None
        };
        Acquire::new(limit.map(Limit::semaphore), shared)
    }

    pub(super) fn unique_keys(&self) -> &UniqueKeys {
        &self.inner.unique_keys
    }

    /// Returns whether requests wait while there are too many tasks.
    #[inline]
    pub(crate) fn limits_requests(&self) -> bool {
        self.inner.table.is_limited()
    }

    /// Returns `None` if another request may come in, or else what waits until the next time that
    /// there is capacity.
    pub(crate) fn wait_for_capacity(&self) -> Option<OwnedNotified> {
        self.inner.table.wait_for_capacity()
    }

    /// Counts a task that was not taken.
    pub(crate) fn refuse(&self) {
        self.inner.table.refuse();
    }

    /// Removes the queued tasks of a request that have this name. Returns how many there were.
    pub(crate) fn remove_queued(&self, owner: &(dyn Owner + 'static), name: &str) -> usize {
        let table = &self.inner.table;
        let queued = table.queued(owner, name).into_iter();
        queued.filter(|key| table.stop(*key, Stop::Remove)).count()
    }

    /// Aborts a task. One that is not spawned yet does not run.
    pub(crate) fn abort_task(&self, key: Key) {
        self.inner.table.stop(key, Stop::Abort);
    }

    /// Warns once that two layers with different supervisors wrap one request.
    pub(crate) fn warn_of_two_supervisors(&self, path: &str) {
        if !self
            .inner
            .warned_of_two_supervisors
            .swap(true, Ordering::Relaxed)
        {
            trace::two_supervisors(&Text::from(path));
        }
    }

    /// Warns once that tasks wait for the last byte on a connection that is not tracked.
    pub(crate) fn warn_of_untracked(&self, path: &str) {
        if !self.inner.warned_of_untracked.swap(true, Ordering::Relaxed) {
            trace::untracked(path);
        }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

/// Two handles are equal if they belong to the same supervisor.
impl PartialEq for Supervisor {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Supervisor {}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("config", &self.inner.config)
            .field("open_responses", &self.open_responses())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
