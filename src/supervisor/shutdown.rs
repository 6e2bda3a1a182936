//! The shutdown of a supervisor: wait, cancel, abort, report.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{owner::Phase, report::ShutdownReport, supervisor::Supervisor};
use crate::util::trace;

impl Supervisor {
    /// Tells everyone who awaits [`stopping`](Self::stopping) that the process is going to stop.
    ///
    /// Tasks and requests are still taken. Call it when the server starts its graceful shutdown, so
    /// that endless streams end and the server can stop. Then call [`shutdown`](Self::shutdown).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use tower_background::Supervisor;
    ///
    /// let supervisor = Supervisor::new();
    /// supervisor.begin_shutdown();
    /// supervisor.stopping().await;
    /// # }
    /// ```
    pub fn begin_shutdown(&self) {
        self.stopping_token().cancel();
    }

    /// Waits for [`begin_shutdown`](Self::begin_shutdown) or [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    ///
    /// You can drop the future at any time and wait again.
    #[must_use = "futures do nothing unless awaited"]
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stopping_token().clone().cancelled_owned()
    }

    /// Shuts the supervisor down, and reports what did not finish.
    ///
    /// 1. Tasks of requests that arrive after this call are refused. Open responses may end within
    ///    `grace`, and their tasks may run, also those that they still add.
    /// 2. After the grace, the tasks are cancelled: see
    ///    [`TaskContext::cancelled`](crate::TaskContext::cancelled). Tasks with a [shutdown
    ///    fallback](crate::Task::shutdown_fallback) run that instead. They all have
    ///    [`abort_after`](crate::SupervisorBuilder::abort_after) to finish.
    /// 3. Then the tasks that are left are aborted, and the report names them. This takes up to another
    ///    `abort_after` if a task blocks its thread. A blocking function cannot be aborted, so it may
    ///    still run.
    ///
    /// It returns as soon as no task and no open response is left. After that every task without a
    /// shutdown fallback is refused. It does not stop the server: stop the server first, or at the
    /// same time.
    ///
    /// You can call it from several places. All calls return the same report, and the shortest
    /// grace counts. A call after the shutdown returns this report again.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the supervisor stays in the step that it has reached. A further call
    /// goes on from there.
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
    /// // … `axum::serve(listener, app).with_graceful_shutdown(signal).await` …
    /// let report = supervisor.shutdown(Duration::from_secs(10)).await;
    /// assert!(report.is_clean());
    /// # }
    /// ```
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.begin_shutdown();
        self.responses().close();
        self.table().advance(Phase::Draining);
        let mut is_drained = within(grace, self.cancel_token(), self.drain()).await;
        if !is_drained {
            self.table().advance(Phase::Cancelling);
            self.cancel();
            self.tell_owners(Phase::Cancelling);
            is_drained = within(self.abort_after(), self.abort_token(), self.drain()).await;
            if !is_drained {
                self.abort_rest().await;
            }
        }
        // A request that was on its way in when the shutdown began may be counted for a moment.
        self.report_once(if is_drained { 0 } else { self.open_responses() })
    }

    /// Waits until no response is open and no task is pending, and takes no task from then on.
    async fn drain(&self) {
        self.responses().wait().await;
        loop {
            self.table().idle().await;
            if self.table().seal_if_idle() {
                return;
            }
        }
    }

    /// Aborts what is left, and waits a moment until it is dropped. A task that holds its thread is
    /// dropped when it awaits next.
    async fn abort_rest(&self) {
        self.abort_all();
        let _ = tokio::time::timeout(self.abort_after(), self.idle()).await;
    }

    /// Aborts all tasks, and takes no task from then on.
    pub(crate) fn abort_all(&self) {
        self.table().advance(Phase::Closed);
        self.abandoned().get_or_init(|| self.tasks());
        // Not before, because a task stops when it sees this.
        self.table().advance(Phase::Sealed);
        self.abort_token().cancel();
        self.limits().close();
        self.tell_owners(Phase::Sealed);
        self.table().wake_stopped();
    }

    fn tell_owners(&self, phase: Phase) {
        for owner in self.table().owners() {
            if let Some(owner) = owner.upgrade() {
                owner.shut_down(phase);
            }
        }
    }

    /// Makes the report and tells the observers, if no other call of `shutdown` has done that.
    fn report_once(&self, open_responses: usize) -> ShutdownReport {
        let mut is_first = false;
        let report = self.report().get_or_init(|| {
            is_first = true;
            let counts = self.table().shutdown_counts();
            let abandoned = self.abandoned().get().cloned().unwrap_or_default();
            ShutdownReport {
                finished: counts.finished,
                fell_back: counts.fell_back,
                cancelled: counts.cancelled,
                abandoned,
                open_responses,
            }
        });
        if is_first {
            if !report.is_clean() {
                trace::shutdown_incomplete(&report.warning());
            }
            self.observers()
                .notify(|observer| observer.on_shutdown(report));
        }
        report.clone()
    }
}

/// Waits for `future`, but not longer than `time` and not after another call has gone on. Returns
/// whether it finished.
async fn within(
    time: Duration,
    gone_on: &CancellationToken,
    future: impl Future<Output = ()>,
) -> bool {
    matches!(
        tokio::time::timeout(time, gone_on.run_until_cancelled(future)).await,
        Ok(Some(()))
    )
}
