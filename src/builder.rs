//! [`SupervisorBuilder`]: the policy of a supervisor.

use std::{fmt, time::Duration};

use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    moment::Release,
    observer::{Observer, Observers},
    order::Order,
    supervisor::Supervisor,
};

/// What a supervisor was built with.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) max_concurrent: Option<usize>,
    pub(crate) max_blocking: Option<usize>,
    pub(crate) max_pending: Option<usize>,
    pub(crate) task_timeout: Option<Duration>,
    pub(crate) release_after: Option<Duration>,
    pub(crate) abort_after: Duration,
    pub(crate) order: Order,
    pub(crate) release: Release,
    pub(crate) runtime: Option<Handle>,
}

/// Sets up a [`Supervisor`]. Without any setting there are no limits, no timeouts and no observers.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background::{Order, Supervisor};
///
/// let supervisor = Supervisor::builder()
///     .max_concurrent(256)
///     .max_blocking(16)
///     .max_pending(10_000)
///     .task_timeout(Duration::from_secs(60))
///     .release_after(Duration::from_secs(30))
///     .order(Order::Sequential)
///     .build();
/// # drop(supervisor);
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct SupervisorBuilder {
    policy: Policy,
    observers: Observers,
    second_runtime: bool,
}

impl SupervisorBuilder {
    /// How many asynchronous tasks run at once. The others wait, first come first served, also across requests. A sequence
    /// of tasks holds one place at a time.
    pub fn max_concurrent(mut self, tasks: usize) -> Self {
        self.policy.max_concurrent = Some(tasks);
        self
    }

    /// How many [blocking](crate::Task::blocking) tasks run at once, and so how many of tokio's threads for blocking work
    /// they take. They have places of their own: they never wait for asynchronous tasks, nor these for them.
    pub fn max_blocking(mut self, tasks: usize) -> Self {
        self.policy.max_blocking = Some(tasks);
        self
    }

    /// From how many tasks on, collected, waiting and running together, the service is not ready for another request, so
    /// that tower's load shedding, timeouts and balancing work on it.
    ///
    /// A request that was let in may still add any number of tasks. A client that does not read its response keeps the
    /// tasks of that collected: set [`release_after`](Self::release_after) too. That counts from the head of the response,
    /// so a handler that may never answer needs a timeout of its own. The code of a request, and a task, find a service of
    /// the same supervisor ready in any case, as they would wait for themselves; and so does everybody once the supervisor
    /// is shut down, as tasks are refused then.
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.policy.max_pending = Some(tasks);
        self
    }

    /// Ends each task that has set no [timeout](crate::Task::timeout) of its own when it has run for this long.
    ///
    /// It needs a runtime with its [time driver](tokio::runtime::Builder::enable_time) enabled.
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        self.policy.task_timeout = Some(timeout);
        self
    }

    /// How the tasks of one request run beside each other; concurrently without a call of this. A request can choose
    /// otherwise by [`BackgroundTasks::order`](crate::BackgroundTasks::order).
    pub fn order(mut self, order: Order) -> Self {
        self.policy.order = order;
        self
    }

    /// From when on the tasks of a response may start; from the end of its body without a call of this. A request can choose
    /// otherwise by [`BackgroundTasks::release`](crate::BackgroundTasks::release).
    pub fn release(mut self, release: Release) -> Self {
        self.policy.release = release;
        self
    }

    /// Runs the tasks of a response at the latest this long after its head, though the response is still open: for streams
    /// that never end, and for clients that stop reading. The tasks then see [`End::Unfinished`](crate::End::Unfinished).
    ///
    /// It needs a runtime with its [time driver](tokio::runtime::Builder::enable_time) enabled.
    pub fn release_after(mut self, after: Duration) -> Self {
        self.policy.release_after = Some(after);
        self
    }

    /// How long tasks have to come to their end after a [shutdown](Supervisor::shutdown) told them to, before they are
    /// dropped; 1 second without a call of this.
    pub fn abort_after(mut self, after: Duration) -> Self {
        self.policy.abort_after = after;
        self
    }

    /// Runs the tasks on this runtime instead of the one that serves the request, so that heavy tasks leave the latency of
    /// requests alone.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.second_runtime = self.policy.runtime.replace(runtime).is_some();
        self
    }

    /// Adds an observer. There may be any number.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.0.push(Box::new(observer));
        self
    }

    /// The supervisor.
    ///
    /// # Panics
    ///
    /// If a limit or a duration is zero, a limit is larger than [`Semaphore::MAX_PERMITS`], or two runtimes were given:
    /// nothing is silently changed to something that would work.
    #[must_use]
    pub fn build(self) -> Supervisor {
        let policy = self.policy;
        for (name, limit) in [
            ("max_concurrent", policy.max_concurrent),
            ("max_blocking", policy.max_blocking),
            ("max_pending", policy.max_pending),
        ] {
            assert!(limit != Some(0), "`{name}` is 0: no task would ever run");
            assert!(limit.is_none_or(|limit| limit <= Semaphore::MAX_PERMITS), "`{name}` is larger than there can be places");
        }
        for (name, duration) in [("task_timeout", policy.task_timeout), ("release_after", policy.release_after)] {
            assert!(duration != Some(Duration::ZERO), "`{name}` is 0: no task would come to its end");
        }
        assert!(!self.second_runtime, "`runtime` was given twice: tasks run on one");
        Supervisor::with(policy, self.observers)
    }
}

impl Default for SupervisorBuilder {
    fn default() -> Self {
        Self {
            policy: Policy {
                max_concurrent: None,
                max_blocking: None,
                max_pending: None,
                task_timeout: None,
                release_after: None,
                abort_after: Duration::from_secs(1),
                order: Order::default(),
                release: Release::default(),
                runtime: None,
            },
            observers: Observers::default(),
            second_runtime: false,
        }
    }
}

impl fmt::Debug for SupervisorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorBuilder").field("policy", &self.policy).finish_non_exhaustive()
    }
}
