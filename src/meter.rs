//! Figures for the `metrics` facade; nothing, and no `cfg` where it is called, without the `metrics` feature.

#[cfg(feature = "metrics")]
pub(crate) use with_metrics::{IS_ON, ended, moved};

#[cfg(feature = "metrics")]
pub use with_metrics::describe_metrics;

#[cfg(feature = "metrics")]
mod with_metrics {
    use std::{borrow::Cow, time::Duration};

    use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

    use crate::{name::Name, outcome::Outcome, report::TaskState};

    /// Whether figures are wanted.
    pub(crate) const IS_ON: bool = true;

    const TASKS: &str = "background_tasks_total";
    const COLLECTED: &str = "background_tasks_collected";
    const WAITING: &str = "background_tasks_waiting";
    const RUNNING: &str = "background_tasks_running";
    const WAIT: &str = "background_task_wait_seconds";
    const RUN: &str = "background_task_run_seconds";

    /// Describes this crate's figures to the recorder of the `metrics` facade, with their units.
    ///
    /// | name | kind | labels | unit | description |
    /// |---|---|---|---|---|
    /// | `background_tasks_total` | counter | `task`, `outcome` | count | Background tasks that ended, by name and outcome. |
    /// | `background_tasks_collected` | gauge | | count | Background tasks whose response is not over. |
    /// | `background_tasks_waiting` | gauge | | count | Background tasks that were released and have not started. |
    /// | `background_tasks_running` | gauge | | count | Background tasks that have started and not ended. |
    /// | `background_task_wait_seconds` | histogram | `task` | seconds | Time from a background task's release to its start. |
    /// | `background_task_run_seconds` | histogram | `task` | seconds | Time from a background task's start to its end. |
    ///
    /// The histograms are of tasks that have started; on the counter there are all. The gauges follow
    /// [`Supervisor::stats`](crate::Supervisor::stats) by a moment: what has waited for
    /// [`idle`](crate::Supervisor::idle) may still find one on its way to 0.
    ///
    /// `task` is the task's name, empty where it has none; `outcome` is one of `succeeded`, `failed`, `panicked`, `timed_out`,
    /// `cancelled`, `skipped` and `refused`. The figures of all supervisors of a process are one. Call it once,
    /// after the recorder was installed.
    ///
    /// # Examples
    ///
    /// ```
    /// tower_background::describe_metrics();
    /// ```
    pub fn describe_metrics() {
        describe_counter!(TASKS, Unit::Count, "Background tasks that ended, by name and outcome.");
        describe_gauge!(COLLECTED, Unit::Count, "Background tasks whose response is not over.");
        describe_gauge!(WAITING, Unit::Count, "Background tasks that were released and have not started.");
        describe_gauge!(RUNNING, Unit::Count, "Background tasks that have started and not ended.");
        describe_histogram!(WAIT, Unit::Seconds, "Time from a background task's release to its start.");
        describe_histogram!(RUN, Unit::Seconds, "Time from a background task's start to its end.");
    }

    /// Tasks have moved from one state to another.
    pub(crate) fn moved(from: Option<TaskState>, to: Option<TaskState>, tasks: u32) {
        if let Some(from) = from {
            gauge!(name_of(from)).decrement(tasks);
        }
        if let Some(to) = to {
            gauge!(name_of(to)).increment(tasks);
        }
    }

    /// A task has ended.
    pub(crate) fn ended(name: Option<&Name>, outcome: &Outcome, waited: Duration, ran: Option<Duration>) {
        let task = match name {
            None => Cow::Borrowed(""),
            Some(Name::Static(name)) => Cow::Borrowed(*name),
            Some(Name::Shared(name)) => Cow::Owned(name.to_string()),
        };
        counter!(TASKS, "task" => task.clone(), "outcome" => outcome.label()).increment(1);
        if let Some(ran) = ran {
            histogram!(WAIT, "task" => task.clone()).record(waited);
            histogram!(RUN, "task" => task).record(ran);
        }
    }

    const fn name_of(state: TaskState) -> &'static str {
        match state {
            TaskState::Collected => COLLECTED,
            TaskState::Waiting => WAITING,
            TaskState::Running => RUNNING,
        }
    }
}

#[cfg(not(feature = "metrics"))]
pub(crate) use without_metrics::{IS_ON, ended, moved};

#[cfg(not(feature = "metrics"))]
mod without_metrics {
    use std::time::Duration;

    use crate::{name::Name, outcome::Outcome, report::TaskState};

    pub(crate) const IS_ON: bool = false;

    pub(crate) const fn moved(_from: Option<TaskState>, _to: Option<TaskState>, _tasks: u32) {}

    pub(crate) const fn ended(_name: Option<&Name>, _outcome: &Outcome, _waited: Duration, _ran: Option<Duration>) {}
}
