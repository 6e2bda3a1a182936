//! [`RunningWorker`]: stops a worker, and says how its jobs ended.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    claims::Claims,
    report::{Counters, Counts},
};

/// A worker that was started.
#[derive(Debug)]
pub struct RunningWorker {
    stop: CancellationToken,
    abort: CancellationToken,
    counters: Arc<Counters>,
    claims: Arc<Claims>,
    task: JoinHandle<()>,
}

/// After the jobs have ended or were aborted, the database has this time to take their results.
const LAST_WRITES: Duration = Duration::from_secs(1);

impl RunningWorker {
    pub(super) fn new(
        (stop, abort): (CancellationToken, CancellationToken),
        (counters, claims): (Arc<Counters>, Arc<Claims>),
        task: JoinHandle<()>,
    ) -> Self {
        Self {
            stop,
            abort,
            counters,
            claims,
            task,
        }
    }

    /// Returns how the jobs of this worker have ended so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read(self.claims.len())
    }

    /// Takes no more jobs, and cancels the tokens of those that run. Does not wait.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the worker. Takes no more jobs, cancels the tokens of those that run, and waits for
    /// them for `grace`. Then aborts the jobs that still run, and gives them back to the queue:
    /// they run again, and this was no attempt.
    ///
    /// Returns at the latest 1 s after the grace, also if the database does not answer. The jobs
    /// whose results could not be written run again.
    pub async fn stop(mut self, grace: Duration) -> Counts {
        self.stop.cancel();
        if timeout(grace, &mut self.task).await.is_err() {
            self.abort.cancel();
            if timeout(LAST_WRITES, &mut self.task).await.is_err() {
                self.task.abort();
            }
        }
        self.counts()
    }
}
