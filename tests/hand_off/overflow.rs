//! Tasks that are made from a job, and go to a destination where they can't run to their end here.

use std::{
    convert::Infallible,
    future::{pending, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::lazy, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio_test::{assert_pending, task::spawn};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, End, Order, Supervisor, Task, When, defer};

use crate::{
    support::{Call, Held, answered, settle, soon},
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
    assert_eq!(table.written(2).await, ["runs", "waits"]);
    assert!(!table.has_more().await);
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

/// What waits for a response that is still open when the grace is over is handed off then, and not lost with the process. A
/// condition that only the end can tell has it wait on: here that comes in time. A task of no job waits for the end as well.
#[tokio::test(start_paused = true)]
async fn what_waits_for_an_open_response_is_handed_off() {
    let supervisor = Supervisor::builder().abort_after(GRACE).build();
    let table = Table::new();
    let call = Call::new(&supervisor, "/stream");
    let tasks = call.tasks.clone();
    let job = |name| table.lossy().overflow(name, |_, _| never("it is handed off"));
    tasks.add(job("responded"));
    tasks.add(job("success").when(When::Success));
    tasks.add(job("matches").when(When::matches(|end| end.kind() == End::Aborted)));
    tasks.add(Task::new(async {}).named("no job"));
    let answer = call.answer().await;
    tasks.add(job("after the head").when(When::Always));

    let stopping = supervisor.clone();
    let shutdown = tokio::spawn(async move { stopping.shutdown(GRACE).await });
    assert_eq!(table.written(2).await, ["after the head", "responded"]);
    assert_eq!(tasks.names().len(), 3, "the rest waits for the end");
    // One that is added now does not wait either.
    tasks.add(job("late"));
    assert_eq!(table.written(1).await, ["late"]);

    drop(answer);
    assert_eq!(table.written(1).await, ["matches"], "the client has left");
    let report = soon(shutdown).await.expect("it does not panic");
    assert_eq!((report.finished(), report.cancelled(), report.abandoned().len(), report.open_responses()), (0, 6, 0, 0));
    let stats = supervisor.stats();
    assert_eq!((stats.handed_off, stats.skipped, stats.succeeded, stats.cancelled), (4, 1, 1, 0));
    assert!(!table.has_more().await);
}

/// There is no response to speak of before its head: then it is the head that has the job handed off.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_head_is_handed_off_when_that_comes() {
    let supervisor = Supervisor::builder().abort_after(GRACE).build();
    let table = Table::new();
    let (call, none) = (Call::new(&supervisor, "/slow"), Call::new(&supervisor, "/never"));
    for (call, name) in [(&call, "slow"), (&none, "never")] {
        call.tasks.add(table.lossy().overflow(name, |_, _| never("it is handed off")));
    }
    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());
    tokio::time::advance(GRACE).await;
    assert_pending!(shutdown.poll());
    settle().await;
    assert!(!table.has_more().await);
    let answer = call.answer().await;
    assert_eq!(table.written(1).await, ["slow"]);
    drop(answer);

    let report = shutdown.await;
    assert_eq!((report.cancelled(), report.abandoned().len(), report.open_responses()), (1, 1, 1));
    none.cancel().await;
    supervisor.idle().await;
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().skipped, supervisor.stats().cancelled), (1, 0, 1));
    assert!(!table.has_more().await, "there was no response");
}

/// A body may leave a task when the head has long passed: the next frame tells that it has.
#[tokio::test(start_paused = true)]
async fn what_a_stream_has_left_is_handed_off() {
    let supervisor = Supervisor::builder().abort_after(GRACE).build();
    let table = Table::new();
    let jobs = table.lossy();
    let frames = stream::iter(["first", "second"]).map(move |frame| {
        assert!(defer(jobs.overflow(frame, |_, _| never("it is handed off"))).is_ok());
        Ok::<_, Infallible>(Frame::data(Bytes::from(frame)))
    });
    let mut body = Some(StreamBody::new(frames.chain(stream::pending())));
    let service =
        service_fn(move |_: Request<()>| ready(Ok::<_, Infallible>(Response::new(body.take().expect("there is one call")))));
    let answer = BackgroundLayer::with(supervisor.clone()).layer(service).oneshot(Request::new(())).await;
    let mut answer = answer.expect("it has an answer").into_body();
    assert!(answer.frame().await.is_some());
    let mut shutdown = spawn(supervisor.shutdown(GRACE));
    assert_pending!(shutdown.poll());
    tokio::time::advance(GRACE).await;
    assert_pending!(shutdown.poll());
    assert_eq!(table.written(1).await, ["first"]);
    // And one that comes even now.
    assert!(answer.frame().await.is_some());
    assert_eq!(table.written(1).await, ["second"]);
    drop(answer);
    assert_eq!(shutdown.await.cancelled(), 2);
}

/// Tasks of a request that run one after the other are handed off so as well.
#[tokio::test(start_paused = true)]
async fn what_waits_for_an_open_response_keeps_its_order() {
    let supervisor = Supervisor::builder().order(Order::Sequential).abort_after(GRACE).build();
    let table = Table::closed();
    let call = Call::new(&supervisor, "/stream");
    let tasks = call.tasks.clone();
    for name in ["first", "second"] {
        tasks.add(table.lossy().overflow(name, |_, _| never("it is handed off")));
    }
    let answer = call.answer().await;
    let stopping = supervisor.clone();
    let shutdown = tokio::spawn(async move { stopping.shutdown(GRACE).await });
    assert_eq!(table.next().await, Event::Begun("first"));
    settle().await;
    assert!(!table.has_more().await);
    table.let_write(1);
    assert_eq!((table.next().await, table.next().await), (Event::Written("first"), Event::Begun("second")));
    table.let_write(1);
    assert_eq!(table.next().await, Event::Written("second"));
    drop(answer);
    assert_eq!(soon(shutdown).await.expect("it does not panic").cancelled(), 2);
}

/// A destination that holds jobs is not told to release one whose response never ends: its own grace is there for that.
#[tokio::test(start_paused = true)]
async fn what_is_held_for_an_open_response_is_released_at_its_end() {
    for ends in [true, false] {
        let supervisor = Supervisor::builder().abort_after(GRACE).build();
        let table = Table::new();
        let call = Call::new(&supervisor, "/stream");
        call.tasks.add(table.held().overflow("held", |_, _| never("it is handed off")));
        let answer = call.answer().await;
        let stopping = supervisor.clone();
        let shutdown = tokio::spawn(async move { stopping.shutdown(GRACE).await });
        assert_eq!(table.written(1).await, ["held"]);
        settle().await;
        assert!(!table.has_more().await, "the response is open");
        if ends {
            drop(answer);
            assert_eq!(table.next().await, Event::Released("held"));
        }
        let report = soon(shutdown).await.expect("it does not panic");
        assert_eq!(report.abandoned().len(), usize::from(!ends));
        assert_eq!(supervisor.stats().handed_off, 1);
    }
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
