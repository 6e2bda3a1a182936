//! [`SupervisorBuilder`]: configures a supervisor.

use std::{fmt, time::Duration};

use tokio::{runtime::Handle, sync::Semaphore};

use super::{Supervisor, capture::Capture, config::Config, observer::Observer};
use crate::task::{Order, StartOn};

/// Configures a [`Supervisor`]. The defaults are: no limits, no timeouts, no observers.
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
///     .start_within(Duration::from_secs(30))
///     .order(Order::Sequential)
///     .build();
/// # drop(supervisor);
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct SupervisorBuilder {
    config: Config,
}

impl SupervisorBuilder {
    /// Sets how many asynchronous tasks run at once. The default is no limit.
    ///
    /// The other tasks wait: first come, first served, across all requests. A sequence of tasks
    /// takes one permit at a time.
    pub fn max_concurrent(mut self, tasks: usize) -> Self {
        self.config.max_concurrent = Some(tasks);
        self
    }

    /// Sets how many [blocking](crate::Task::blocking) tasks run at once, and so how many of
    /// tokio's threads for blocking work they take. The default is no limit.
    ///
    /// Blocking and asynchronous tasks never wait for each other.
    pub fn max_blocking(mut self, tasks: usize) -> Self {
        self.config.max_blocking = Some(tasks);
        self
    }

    /// Sets how many tasks may be unfinished before the service is not ready for another request.
    /// The default is no limit.
    ///
    /// At the limit `poll_ready` returns `Pending`, so that tower's load shedding, timeouts and
    /// balancing react. A request that was let in may still add any number of tasks. Tasks without
    /// a request do not count.
    ///
    /// A client that does not read its response keeps the tasks of that response deferred, so set
    /// [`start_within`](Self::start_within) too. To avoid deadlocks, the limit is not applied to
    /// calls from inside a request or a task of the same supervisor. It is not applied after a
    /// shutdown either, because tasks are refused then.
    pub fn max_pending(mut self, tasks: usize) -> Self {
        self.config.max_pending = Some(tasks);
        self
    }

    /// Sets the timeout of tasks that set no [timeout](crate::Task::timeout) of their own. The
    /// default is no timeout.
    ///
    /// It needs a runtime with its [time driver](tokio::runtime::Builder::enable_time) enabled. It
    /// does not apply to tasks without a request.
    pub fn task_timeout(mut self, timeout: Duration) -> Self {
        self.config.task_timeout = Some(timeout);
        self
    }

    /// Sets how the tasks of one request run beside each other. The default is
    /// [`Order::Concurrent`].
    ///
    /// A request can choose another order by
    /// [`BackgroundTasks::set_order`](crate::BackgroundTasks::set_order).
    pub fn order(mut self, order: Order) -> Self {
        self.config.order = order;
        self
    }

    /// Sets when the tasks of a request start. The default is [`StartOn::EndOfStream`].
    ///
    /// A request can choose otherwise by
    /// [`BackgroundTasks::set_start_on`](crate::BackgroundTasks::set_start_on).
    pub fn start_on(mut self, start_on: StartOn) -> Self {
        self.config.start_on = start_on;
        self
    }

    /// Starts the tasks of a request at the latest this long after the head of its response. The
    /// default is no such limit.
    ///
    /// It is meant for streams that never end, and for clients that stop reading. The tasks then
    /// see [`EndKind::Unfinished`](crate::EndKind::Unfinished). It needs a runtime with its [time
    /// driver](tokio::runtime::Builder::enable_time) enabled.
    pub fn start_within(mut self, after_head: Duration) -> Self {
        self.config.start_within = Some(after_head);
        self
    }

    /// Sets how long cancelled tasks have to finish before a [shutdown](Supervisor::shutdown)
    /// aborts them. The default is 1 second.
    pub fn abort_after(mut self, after: Duration) -> Self {
        self.config.abort_after = after;
        self
    }

    /// Runs the tasks on this runtime, so that heavy tasks do not slow down requests. The default
    /// is the runtime that serves the request.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.config.runtime = Some(runtime);
        self
    }

    /// Adds an observer. You can add several.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.config.observers.push(observer);
        self
    }

    /// Adds a context that tasks take along from the code that adds them. You can add several; the
    /// first is entered first.
    pub fn capture(mut self, capture: impl Capture + 'static) -> Self {
        self.config.captures.push(Box::new(capture));
        self
    }

    /// Sets whether the span of a task is a child of the span in which the task was added. The
    /// default is `false`: the span of a task is a root span, which follows from that span.
    ///
    /// With child spans, a trace shows a request and its tasks in one tree. Subscribers close a span
    /// after its children, so the span of the request then lasts until its last task has ended.
    #[cfg(feature = "tracing")]
    pub fn child_spans(mut self, child_spans: bool) -> Self {
        self.config.child_spans = child_spans;
        self
    }

    /// Builds the supervisor.
    ///
    /// # Panics
    ///
    /// Panics if a limit is zero, because no task would ever run, or larger than
    /// [`Semaphore::MAX_PERMITS`].
    #[must_use]
    pub fn build(self) -> Supervisor {
        let Config {
            max_concurrent,
            max_blocking,
            max_pending,
            ..
        } = self.config;
        for (name, limit) in [
            ("max_concurrent", max_concurrent),
            ("max_blocking", max_blocking),
            ("max_pending", max_pending),
        ] {
            assert!(limit != Some(0), "`{name}` is 0: no task would ever run");
            assert!(
                limit.is_none_or(|limit| limit <= Semaphore::MAX_PERMITS),
                "`{name}` is larger than `Semaphore::MAX_PERMITS`"
            );
        }
        Supervisor::with_config(self.config)
    }
}

impl fmt::Debug for SupervisorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}
