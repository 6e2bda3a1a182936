//! The cost of a shutdown grows in proportion to the number of tasks.

#[path = "../../benches/cpu_time/mod.rs"]
mod cpu_time;

use std::{
    future::pending,
    time::{Duration, Instant},
};

use tower_background::{Stats, Supervisor, Task};

use self::cpu_time::cpu_time;
use crate::common::{Call, alone, one_thread, soon};

const MILLISECOND: Duration = Duration::from_millis(1);

/// What a shutdown does with the deferred tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) task: fn() -> Task,
    pub(crate) abort_after: Duration,
    /// The number of tasks that ended as they should.
    pub(crate) ended: fn(&Stats) -> u64,
}

/// Returns the CPU time of a shutdown with this many deferred tasks and one open response. Without
/// Linux it is the time that passes.
fn cost(count: u64, case: Case) -> Duration {
    one_thread().block_on(async {
        let supervisor = Supervisor::builder().abort_after(case.abort_after).build();
        let call = Call::new(&supervisor, "/");
        for _ in 0..count {
            call.tasks.add((case.task)());
        }
        let (started, before) = (Instant::now(), cpu_time());
        // The shutdown waits for the response, which ends after its tasks.
        let end_response = async {
            soon(supervisor.idle()).await;
            drop(call);
        };
        tokio::join!(supervisor.shutdown(MILLISECOND), end_response);
        let cpu = cpu_time()
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before));
        let elapsed = cpu.unwrap_or_else(|| started.elapsed());
        let stats = supervisor.stats();
        assert_eq!((stats.added(), (case.ended)(&stats)), (count, count));
        elapsed
    })
}

/// Checks that eight times the tasks cost at most sixteen times as much. Other processes may
/// disturb a run, so the fastest of three counts.
pub(crate) fn assert_linear(case: Case) {
    // A cost that grows with the square fails with the smaller numbers, without the minutes that
    // the larger ones would take.
    for count in [625, 5_000] {
        let fastest = |count| (0..3).map(|_| cost(count, case)).min().expect("three runs");
        let (few, many) = (fastest(count), fastest(8 * count));
        assert!(
            many <= few * 16,
            "a shutdown takes {few:?} with {count} tasks, and {many:?} with eight times as many"
        );
    }
}

#[test]
fn of_deferred_tasks() {
    alone!(of_deferred_tasks, || {
        assert_linear(Case {
            task: || Task::new(pending::<()>()),
            abort_after: MILLISECOND,
            ended: |stats| stats.aborted,
        });
    });
}
