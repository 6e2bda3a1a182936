//! Tasks that are made from a job, and go to a destination where they can't run to their end here.

use std::{future::pending, time::Duration};

use futures_util::future::lazy;
use tower_background::{Supervisor, Task};

use crate::{
    support::{Call, Held, answered, soon},
    table::{Event, Table},
};

/// What a task does that must not run.
fn never(why: &'static str) -> impl Future<Output = ()> + Send {
    lazy(move |_| assert!(why.is_empty(), "{why}"))
}

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_task_of_a_job_runs_here_as_any_other() {
    let (supervisor, table, held) = (Supervisor::new(), Table::new(), Held::new());
    let tasks = answered(&supervisor, "/").await;
    let doing = held.clone();
    tasks.add(
        table
            .lossy()
            .overflow("mail", move |job, cx| {
                assert_eq!(cx.name(), Some("welcome"));
                doing.hold(job.to_owned())
            })
            .named("welcome"),
    );
    assert_eq!(held.started().await, "mail");
    held.let_go(1);
    supervisor.idle().await;
    assert_eq!((supervisor.stats().succeeded, supervisor.stats().handed_off), (1, 0));
    assert!(!table.has_more().await);
}

/// The tasks within the limit run or wait; those beyond it are handed off, so that there are fewer.
#[tokio::test]
async fn what_is_more_than_may_be_pending_is_handed_off() {
    let supervisor = Supervisor::builder().max_concurrent(1).max_pending(2).build();
    let (table, held) = (Table::new(), Held::new());
    let jobs = table.durable();
    let call = Call::new(&supervisor, "/");
    call.tasks.add(held.task("runs"));
    call.tasks.add(held.task("waits"));
    for job in ["one", "two"] {
        call.tasks.add(jobs.overflow(job, |_, _| never("there is no room for it")));
    }
    call.finish().await;
    assert_eq!(held.started().await, "runs");
    for job in ["one", "two"] {
        assert_eq!((table.next().await, table.next().await), (Event::Begun(job), Event::Written(job)));
    }
    held.let_go(2);
    supervisor.idle().await;
    assert_eq!((supervisor.stats().succeeded, supervisor.stats().handed_off), (2, 2));
}

/// When the grace is over, what runs and what waits is handed off, in the time that is left; a task of no job is cancelled.
#[tokio::test(start_paused = true)]
async fn what_did_not_end_within_the_grace_is_handed_off() {
    let supervisor = Supervisor::builder().max_concurrent(2).build();
    let table = Table::new();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(table.lossy().overflow("runs", |_, _| pending::<()>()));
    tasks.add(Task::new(pending::<()>()).named("no job"));
    tasks.add(table.lossy().overflow("waits", |_, _| never("its place never comes")));

    let report = supervisor.shutdown(GRACE).await;
    assert_eq!((report.finished(), report.cancelled(), report.abandoned().len()), (0, 2, 1));
    assert_eq!(report.abandoned()[0].name(), Some("no job"));
    let mut written = Vec::new();
    while table.has_more().await {
        if let Event::Written(job) = table.next().await {
            written.push(job);
        }
    }
    written.sort_unstable();
    assert_eq!(written, ["runs", "waits"]);
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().cancelled), (2, 1));
}

/// What waits in line behind a task that never ends is handed off from there: no place comes free for it.
#[tokio::test(start_paused = true)]
async fn what_waits_in_line_is_handed_off_without_a_place() {
    let supervisor = Supervisor::builder().max_concurrent(1).build();
    let table = Table::new();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(Task::new(pending::<()>()).named("has the place"));
    tasks.add(table.lossy().overflow("waits", |_, _| never("its place never comes")));

    let report = supervisor.shutdown(GRACE).await;
    assert_eq!((report.cancelled(), report.abandoned().len()), (1, 1));
    assert_eq!(report.abandoned()[0].name(), Some("has the place"));
    assert_eq!((table.next().await, table.next().await), (Event::Begun("waits"), Event::Written("waits")));
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().cancelled), (1, 1));
}

/// While a shutdown waits, a task of a request that came later is handed off; after it, refused as any.
#[tokio::test]
async fn what_comes_during_a_shutdown_is_handed_off() {
    let (supervisor, table, held) = (Supervisor::new(), Table::new(), Held::new());
    answered(&supervisor, "/").await.add(held.task("still runs"));
    assert_eq!(held.started().await, "still runs");
    let stopping = supervisor.clone();
    let shutdown = tokio::spawn(async move { stopping.shutdown(GRACE).await });
    while Call::new(&supervisor, "/probe").tasks.add(async {}) {
        tokio::task::yield_now().await;
    }

    let late = Call::new(&supervisor, "/late");
    assert!(late.tasks.add(table.lossy().overflow("late", |_, _| never("it came too late to run"))));
    late.finish().await;
    assert_eq!((table.next().await, table.next().await), (Event::Begun("late"), Event::Written("late")));

    // What a destination holds is released as well, or it would wait for its grace.
    let late = Call::new(&supervisor, "/late");
    assert!(late.tasks.add(table.held().overflow("held", |_, _| never("it came too late to run"))));
    late.finish().await;
    assert_eq!((table.next().await, table.next().await), (Event::Begun("held"), Event::Written("held")));
    assert_eq!(table.next().await, Event::Released("held"));

    held.let_go(1);
    let report = soon(shutdown).await.expect("it does not panic");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(supervisor.stats().handed_off, 2);
    let tasks = answered(&supervisor, "/").await;
    assert!(!tasks.add(table.lossy().overflow("too late", |_, _| async {})));
}

#[tokio::test]
async fn a_destination_that_fails_is_the_tasks_failure() {
    let supervisor = Supervisor::builder().max_pending(1).build();
    let (table, held) = (Table::new(), Held::new());
    table.fail();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(held.task("runs"));
    assert_eq!(held.started().await, "runs");
    tasks.add(table.lossy().overflow("mail", |_, _| async {}));
    assert_eq!(table.next().await, Event::Begun("mail"));
    held.let_go(1);
    supervisor.idle().await;
    assert_eq!((supervisor.stats().succeeded, supervisor.stats().failed), (1, 1));
}
