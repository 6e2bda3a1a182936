//! What a shutdown costs grows with the number of tasks, and not with its square.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use tower_background::{Stats, Supervisor, Task};

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

/// How long a shutdown takes beside one open response with so many deferred tasks.
fn cost(count: u64, case: Case) -> Duration {
    one_thread().block_on(async {
        let supervisor = Supervisor::builder().abort_after(case.abort_after).build();
        let call = Call::new(&supervisor, "/");
        for _ in 0..count {
            call.tasks.add((case.task)());
        }
        let started = Instant::now();
        // The shutdown waits for the response, which ends after its tasks.
        let end_response = async {
            soon(supervisor.idle()).await;
            drop(call);
        };
        tokio::join!(supervisor.shutdown(MILLISECOND), end_response);
        let elapsed = started.elapsed();
        let stats = supervisor.stats();
        assert_eq!((stats.added(), (case.ended)(&stats)), (count, count));
        elapsed
    })
}

/// Eight times the tasks may cost sixteen times as much. Another process may disturb one comparison, but not each of three; twice
/// that is no disturbance.
pub(crate) fn assert_linear(case: Case) {
    // A cost that grows with the square fails with the smaller numbers, without the minutes that the larger ones would take.
    for count in [625, 5_000] {
        let few = (0..3).map(|_| cost(count, case)).min().expect("three runs");
        let mut many = Duration::MAX;
        for _ in 0..3 {
            many = many.min(cost(8 * count, case));
            if many <= few * 16 || many > few * 32 {
                break;
            }
        }
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
