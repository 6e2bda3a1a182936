//! A `Limit` bounds how many tasks of one kind run at once.

use std::{future::pending, time::Duration};

use tower_background::{Limit, Supervisor, Task};

use crate::common::{Held, answered, output, settle, soon};

#[tokio::test]
async fn never_more_run_at_once_and_the_first_comes_first() {
    for blocking in [false, true] {
        let (supervisor, held, limit) = (Supervisor::new(), Held::new(), Limit::new(3));
        let make = |name: String| {
            if blocking {
                held.blocking(name)
            } else {
                held.task(name)
            }
        };
        // Each task has a request of its own, so the order is that of the limit.
        for number in 0..12 {
            answered(&supervisor, "/")
                .await
                .add(make(number.to_string()).limit(&limit));
        }
        let mut first = [
            held.started().await,
            held.started().await,
            held.started().await,
        ];
        first.sort();
        assert_eq!(first, ["0", "1", "2"]);
        for number in 3..12 {
            settle().await;
            assert!(
                !held.has_started().await,
                "three run already, blocking: {blocking}"
            );
            assert_eq!(
                (supervisor.stats().running, supervisor.stats().queued),
                (3, 12 - number)
            );
            held.let_go(1);
            assert_eq!(held.started().await, number.to_string());
        }
        held.let_go(3);
        soon(supervisor.idle()).await;
        assert_eq!(supervisor.stats().succeeded, 12);
    }
}

#[tokio::test]
async fn waiting_takes_no_permit_and_holds_up_no_other_task() {
    let supervisor = Supervisor::builder().max_concurrent(2).build();
    let (limited, other, limit) = (Held::new(), Held::new(), Limit::new(1));
    let tasks = answered(&supervisor, "/").await;
    for name in ["first", "second", "third"] {
        tasks.add(limited.task(name).limit(&limit));
    }
    assert_eq!(limited.started().await, "first");
    for _ in 0..5 {
        tasks.add(other.task("other"));
        assert_eq!(other.started().await, "other");
        other.let_go(1);
    }
    assert_eq!(tasks.remove("second"), 1);
    limited.let_go(1);
    assert_eq!(limited.started().await, "third");
    limited.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().removed),
        (7, 1)
    );
}

#[tokio::test]
async fn spawned_tasks_and_other_supervisors_obey_it() {
    let (held, limit) = (Held::new(), Limit::new(1));
    let supervisors = [Supervisor::new(), Supervisor::new()];
    let spawn = |supervisor: &Supervisor, name: &str| {
        supervisor
            .spawn(held.task(name).limit(&limit))
            .expect("it is open")
    };
    let handles = [
        spawn(&supervisors[0], "0"),
        spawn(&supervisors[0], "1"),
        spawn(&supervisors[1], "2"),
    ];
    for (number, handle) in handles.into_iter().enumerate() {
        assert_eq!(held.started().await, number.to_string());
        settle().await;
        assert!(!held.has_started().await);
        held.let_go(1);
        assert_eq!(soon(handle).await.label(), "succeeded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_those_that_wait() {
    let (supervisor, limit) = (Supervisor::new(), Limit::new(1));
    let tasks = answered(&supervisor, "/").await;
    let runs = tasks
        .try_add(Task::new(pending::<()>()).limit(&limit))
        .expect("it is open");
    settle().await;
    let waits = tasks
        .try_add(Task::new(async {}).named("waits").limit(&limit))
        .expect("it is open");
    let falls_back = tasks
        .try_add(
            Task::new(async {})
                .limit(&limit)
                .shutdown_fallback(async {}),
        )
        .expect("it is open");
    let report = supervisor.shutdown(Duration::from_secs(1)).await;
    assert!(!report.is_clean());
    assert_eq!(
        (
            runs.await.label(),
            waits.await.label(),
            falls_back.await.label()
        ),
        ("aborted", "aborted", "fell_back")
    );
    assert_eq!(supervisor.stats().pending(), 0);
    // The limit belongs to the user, so it still works for another supervisor.
    let other = Supervisor::new()
        .spawn(Task::new(async {}).limit(&limit))
        .expect("it is open");
    assert_eq!(other.await.label(), "succeeded");
}

#[tokio::test]
async fn the_example_opens_four_connections() {
    assert_eq!(
        output("limit", "axum").await,
        "mails: 20, connections at once: 4\n"
    );
}
