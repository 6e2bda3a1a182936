//! Counters, gauges and histograms for the `metrics` facade. Without the feature `metrics` every
//! function here does nothing.
//!
//! A recorder is code of the user. Its panics are caught and logged, and they change nothing for
//! the task.

use std::time::Duration;

#[cfg(feature = "metrics")]
pub use self::facade::describe_metrics;
pub(crate) use self::facade::{ended, is_wanted, moved};

/// The gauge that counts a task until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gauge {
    Deferred,
    Queued,
    Running,
}

#[cfg(feature = "metrics")]
mod facade {
    use metrics::{
        Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
        histogram,
    };

    use super::{Duration, Gauge};
    use crate::util::user_code::catch_and_log;

    /// Returns whether a recorder is installed, for this thread or for all.
    ///
    /// The recorder that stands for "none" has no field. So a recorder without fields gets nothing.
    #[inline]
    pub(crate) fn is_wanted() -> bool {
        metrics::with_recorder(|recorder| size_of_val(recorder) > 0)
    }

    const TASKS: &str = "background_tasks_total";
    const DEFERRED: &str = "background_tasks_deferred";
    const QUEUED: &str = "background_tasks_queued";
    const RUNNING: &str = "background_tasks_running";
    const WAIT: &str = "background_task_wait_seconds";
    const RUN: &str = "background_task_run_seconds";

    /// Describes the metrics of this crate to the recorder of the `metrics` facade, with their
    /// units.
    ///
    /// Call it once, after you have installed the recorder.
    ///
    /// | name | kind | labels | unit | description |
    /// |---|---|---|---|---|
    /// | `background_tasks_total` | counter | `task`, `outcome` | count | Background tasks that ended or were refused, by name and outcome. |
    /// | `background_tasks_deferred` | gauge | | count | Background tasks whose response is open. |
    /// | `background_tasks_queued` | gauge | | count | Background tasks that wait for a permit, for their turn, or for the runtime. |
    /// | `background_tasks_running` | gauge | | count | Background tasks that run. |
    /// | `background_task_wait_seconds` | histogram | `task` | seconds | Time from the start of a request's tasks until the task runs. |
    /// | `background_task_run_seconds` | histogram | `task` | seconds | Time that a background task ran. |
    ///
    /// The label `task` is the name of the task, and empty for a task without a name. The label
    /// `outcome` is [`Outcome::label`](crate::Outcome::label), or `refused`. The histograms only
    /// have tasks that ran. All supervisors of a process share these metrics. The gauges can change
    /// a little later than [`Supervisor::stats`](crate::Supervisor::stats).
    ///
    /// A recorder whose type has no fields gets no metrics, because this crate cannot tell it from a
    /// missing recorder. The recorders of all common exporters have fields.
    ///
    /// # Examples
    ///
    /// ```
    /// tower_background::describe_metrics();
    /// ```
    pub fn describe_metrics() {
        describe_counter!(
            TASKS,
            Unit::Count,
            "Background tasks that ended or were refused, by name and outcome."
        );
        describe_gauge!(
            DEFERRED,
            Unit::Count,
            "Background tasks whose response is open."
        );
        describe_gauge!(
            QUEUED,
            Unit::Count,
            "Background tasks that wait for a permit, for their turn, or for the runtime."
        );
        describe_gauge!(RUNNING, Unit::Count, "Background tasks that run.");
        describe_histogram!(
            WAIT,
            Unit::Seconds,
            "Time from the start of a request's tasks until the task runs."
        );
        describe_histogram!(RUN, Unit::Seconds, "Time that a background task ran.");
    }

    /// Moves tasks from one gauge to another.
    ///
    /// The new gauge rises first. A task is counted in a state before any thread can move it out of that
    /// state, so no gauge is ever below zero.
    pub(crate) fn moved(from: Option<Gauge>, to: Option<Gauge>, tasks: usize) {
        if !is_wanted() {
            return;
        }
        catch_and_log("a metrics recorder", || {
            #[expect(
                clippy::cast_precision_loss,
                reason = "there are fewer tasks than 2^52"
            )]
            let tasks = tasks as f64;
            if let Some(to) = to {
                gauge!(name_of(to)).increment(tasks);
            }
            if let Some(from) = from {
                gauge!(name_of(from)).decrement(tasks);
            }
        });
    }

    /// Counts a task that ended or was refused.
    pub(crate) fn ended(
        name: Option<&str>,
        outcome: &'static str,
        waited: Duration,
        ran: Option<Duration>,
    ) {
        if !is_wanted() {
            return;
        }
        catch_and_log("a metrics recorder", || {
            let task = Label::new("task", name.unwrap_or_default().to_owned());
            counter!(
                TASKS,
                vec![task.clone(), Label::from_static_parts("outcome", outcome)]
            )
            .increment(1);
            if let Some(ran) = ran {
                histogram!(WAIT, vec![task.clone()]).record(waited);
                histogram!(RUN, vec![task]).record(ran);
            }
        });
    }

    const fn name_of(gauge: Gauge) -> &'static str {
        match gauge {
            Gauge::Deferred => DEFERRED,
            Gauge::Queued => QUEUED,
            Gauge::Running => RUNNING,
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    use super::{Duration, Gauge};

    pub(crate) const fn is_wanted() -> bool {
        false
    }

    pub(crate) const fn moved(_from: Option<Gauge>, _to: Option<Gauge>, _tasks: usize) {}

    pub(crate) const fn ended(
        _name: Option<&str>,
        _outcome: &'static str,
        _waited: Duration,
        _ran: Option<Duration>,
    ) {
    }
}
