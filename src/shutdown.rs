//! The end of a supervisor: what is open ends, what does not is cancelled, then dropped, and all of it is told.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{ledger::Phase, report::RunningTask, supervisor::Supervisor};

/// What became of a supervisor's tasks when it was shut down.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use tower_background::Supervisor;
///
/// let report = Supervisor::new().shutdown(Duration::from_secs(10)).await;
/// for task in report.abandoned() {
///     eprintln!("{:?} of {} {} was dropped after {:?}", task.name(), task.method(), task.path(), task.age());
/// }
/// assert!(report.is_clean());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ShutdownReport {
    finished: u64,
    cancelled: u64,
    abandoned: Vec<RunningTask>,
    open_responses: usize,
}

impl ShutdownReport {
    /// Whether all responses and tasks came to their end within the grace.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cancelled == 0 && self.abandoned.is_empty() && self.open_responses == 0
    }

    /// How many tasks ended, in whatever way, within the grace.
    #[must_use]
    pub const fn finished(&self) -> u64 {
        self.finished
    }

    /// How many tasks ended, in whatever way, after they were told to and before they would have been dropped.
    #[must_use]
    pub const fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// The tasks that had not ended when the rest was dropped, as they were then; the oldest first. A blocking function
    /// among them may still run.
    #[must_use]
    pub fn abandoned(&self) -> &[RunningTask] {
        &self.abandoned
    }

    fn tell(&self, supervisor: &Supervisor) {
        if !self.is_clean() {
            crate::log::warn!(
                finished = self.finished,
                cancelled = self.cancelled,
                abandoned = self.abandoned.len(),
                open_responses = self.open_responses,
                "a shutdown did not wait for everything to end"
            );
        }
        supervisor.observers().tell(|observer| observer.shutdown(self));
    }

    /// How many responses were still open in the end.
    #[must_use]
    pub const fn open_responses(&self) -> usize {
        self.open_responses
    }
}

impl Supervisor {
    /// Ends the supervisor.
    ///
    /// 1. From the call on, tasks of requests that come later are refused. Open responses, counted from the call of the
    ///    service, may end within `grace`, and their tasks, also those that they still add, may run.
    /// 2. When the grace is over, every task is told by [`TaskContext::cancelled`](crate::TaskContext::cancelled) to come to
    ///    its end. It has [`abort_after`](crate::SupervisorBuilder::abort_after) for that.
    /// 3. Then what is left is dropped, and counted as cancelled. A blocking function can't be dropped: it is reported, and
    ///    may still run. A task that holds its thread, neither; it is dropped when it next awaits.
    ///
    /// It returns as soon as nothing is left, and every task that is added after that is refused. The server itself is not
    /// stopped by it: stop that first, or at the same time.
    ///
    /// It may be called from several places, with the same result for all; the shortest grace counts.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, the supervisor stays in the step that it is in, and a further call goes on from there.
    ///
    /// # Panics
    ///
    /// If it is polled on a runtime without a [time driver](tokio::runtime::Builder::enable_time).
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
    /// // … `axum::serve(listener, app).with_graceful_shutdown(signal).await` …
    /// let report = supervisor.shutdown(Duration::from_secs(10)).await;
    /// assert!(report.is_clean());
    /// # }
    /// ```
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.gate().close();
        self.ledger().advance(Phase::Draining);
        if !self.drained_within(grace, self.cancel_token()).await {
            self.ledger().advance(Phase::Cancelling);
            self.cancel();
            if !self.drained_within(self.policy().abort_after, self.abort_token()).await {
                self.ledger().seal();
                self.abort();
                self.dropped().await;
            }
        }
        let mut first = false;
        let report = self.report().get_or_init(|| {
            first = true;
            let (finished, cancelled, abandoned) = self.ledger().shutdown_figures();
            ShutdownReport { finished, cancelled, abandoned, open_responses: self.open_responses() }
        });
        if first {
            report.tell(self);
        }
        report.clone()
    }

    /// Waits until no response is open and no task is left, and takes no more from then on. Returns whether that came before
    /// the time was over, for this call or for another one.
    async fn drained_within(&self, time: Duration, over: &CancellationToken) -> bool {
        let drained = tokio::time::timeout(time, over.run_until_cancelled(self.drained())).await;
        matches!(drained, Ok(Some(())))
    }

    /// Waits until no response is open and no task is left, and takes no more from then on.
    pub(crate) async fn drained(&self) {
        let waiter = self.ledger().wait();
        loop {
            // Made before the figures are read: what ends in between still wakes them.
            let (no_response, idle) = (self.no_response().notified(), waiter.notified());
            if self.open_responses() == 0 && self.ledger().seal_if_idle() {
                return;
            }
            either(no_response, idle).await;
        }
    }

    /// Waits a moment for the drops of what was left, which are certain only for tasks that do not hold their thread.
    async fn dropped(&self) {
        let waiter = self.ledger().wait();
        let dropped = async {
            loop {
                let ended = waiter.notified();
                let stats = self.stats();
                if stats.waiting + stats.running == 0 {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(self.policy().abort_after, dropped).await;
    }
}

/// Waits for whichever is first.
async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let mut one = pin!(one);
    let mut other = pin!(other);
    poll_fn(
        |cx| {
            if one.as_mut().poll(cx).is_ready() || other.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
        },
    )
    .await;
}
