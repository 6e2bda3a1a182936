//! Counters, gauges and histograms, if the feature `metrics` is on.

use std::time::Duration;

use crate::{queue::Inner, worker::JobOutcome};

/// The time between two measurements of the depth.
pub(crate) const INTERVAL: Duration = Duration::from_secs(15);

#[cfg(feature = "metrics")]
mod on {
    use super::{Duration, Inner, JobOutcome};

    pub(crate) fn started(queue: &str, waited: Duration) {
        metrics::histogram!("background_job_wait_seconds", "queue" => queue.to_owned())
            .record(waited.as_secs_f64());
    }

    pub(crate) fn ran(queue: &str, ran: Duration) {
        metrics::histogram!("background_job_run_seconds", "queue" => queue.to_owned())
            .record(ran.as_secs_f64());
    }

    pub(crate) fn ended(queue: &str, outcome: JobOutcome) {
        let label = match outcome {
            JobOutcome::Done => "done",
            JobOutcome::Failed(_) => "failed",
            JobOutcome::Archived => "archived",
            JobOutcome::Returned => "returned",
        };
        metrics::counter!("background_jobs_total", "queue" => queue.to_owned(), "outcome" => label)
            .increment(1);
    }

    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) async fn depth(inner: &Inner) {
        let Ok(depth) = inner.engine.depth(&inner.name).await else {
            return;
        };
        for (state, count) in [
            ("ready", depth.ready),
            ("invisible", depth.invisible),
            ("archived", depth.archived),
        ] {
            let queue = inner.name.as_str().to_owned();
            metrics::gauge!("background_jobs", "queue" => queue, "state" => state)
                .set(count as f64);
        }
        let queue = inner.name.as_str().to_owned();
        metrics::gauge!("background_job_oldest_seconds", "queue" => queue)
            .set(depth.age_of_oldest.as_secs_f64());
    }
}

#[cfg(not(feature = "metrics"))]
mod on {
    use super::{Duration, Inner, JobOutcome};

    pub(crate) fn started(_: &str, _: Duration) {}

    pub(crate) fn ran(_: &str, _: Duration) {}

    pub(crate) fn ended(_: &str, _: JobOutcome) {}

    pub(crate) async fn depth(_: &Inner) {}
}

pub(crate) use on::{depth, ended, ran, started};
