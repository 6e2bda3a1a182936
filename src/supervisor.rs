//! [`Supervisor`]: owns what runs after the responses of one process.

use std::{fmt, sync::Arc, time::Duration};

use crate::{ledger::Ledger, stats::Stats};

/// Owns every task that runs after a response: policy and figures.
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
/// let supervisor = Supervisor::builder().release_after(Duration::from_secs(30)).build();
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
    ledger: Ledger,
}

/// What a supervisor was built with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    pub(crate) release_after: Option<Duration>,
    pub(crate) task_timeout: Option<Duration>,
}

impl Supervisor {
    /// A supervisor without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A supervisor of one's own making.
    pub fn builder() -> SupervisorBuilder {
        SupervisorBuilder::default()
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

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.inner.ledger
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
        f.debug_struct("Supervisor").field("policy", &self.inner.policy).field("stats", &self.stats()).finish()
    }
}

/// Sets up a [`Supervisor`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::Supervisor;
///
/// let supervisor = Supervisor::builder()
///     .task_timeout(Duration::from_secs(60))
///     .release_after(Duration::from_secs(30))
///     .build();
/// # drop(supervisor);
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct SupervisorBuilder {
    policy: Policy,
}

impl SupervisorBuilder {
    /// Runs the tasks of a response at the latest this long after its head, though the response is still open: for streams
    /// that never end, and for clients that stop reading. The tasks then see [`End::Unfinished`](crate::End::Unfinished).
    ///
    /// It needs a runtime with its [time driver](tokio::runtime::Builder::enable_time) enabled.
    ///
    /// # Panics
    ///
    /// If the duration is zero.
    pub fn release_after(mut self, after: Duration) -> Self {
        assert!(!after.is_zero(), "`release_after` of zero would release before the response");
        self.policy.release_after = Some(after);
        self
    }

    /// Ends each task that has set no [timeout](crate::Task::timeout) of its own when it has run for this long.
    ///
    /// It needs a runtime with its [time driver](tokio::runtime::Builder::enable_time) enabled.
    ///
    /// # Panics
    ///
    /// If the timeout is zero.
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a timeout of zero would let no task run");
        self.policy.task_timeout = Some(timeout);
        self
    }

    /// The supervisor.
    #[must_use]
    pub fn build(self) -> Supervisor {
        Supervisor { inner: Arc::new(Inner { policy: self.policy, ledger: Ledger::default() }) }
    }
}
