//! `spawn` runs a task without a request. It takes no permit, has no default timeout, and does not
//! count towards `max_pending`.

use std::{convert::Infallible, future::pending, sync::Arc, sync::Mutex, time::Duration};

use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, Order, Outcome, Supervisor, Task, When, defer,
    report::TaskState,
};

use crate::common::{Held, Recorder, answered, settle, soon, until};

#[tokio::test]
async fn it_takes_no_permit() {
    let (supervisor, held) = (
        Supervisor::builder()
            .max_concurrent(1)
            .max_blocking(1)
            .build(),
        Held::new(),
    );
    let tasks = answered(&supervisor, "/").await;
    tasks.add(held.task("task"));
    tasks.add(held.blocking("function"));
    let mut started = [held.started().await, held.started().await];
    started.sort();
    assert_eq!(started, ["function", "task"]);
    for task in [Task::new(async {}), Task::blocking(|| {})] {
        assert_eq!(
            soon(supervisor.spawn(task).expect("the supervisor is open"))
                .await
                .label(),
            "succeeded"
        );
    }
    held.let_go(2);
    soon(supervisor.idle()).await;
}

#[tokio::test(start_paused = true)]
async fn it_has_no_timeout_but_its_own() {
    let supervisor = Supervisor::builder()
        .task_timeout(Duration::from_secs(1))
        .build();
    let hour = Task::new(tokio::time::sleep(Duration::from_secs(3_600)));
    assert_eq!(
        supervisor
            .spawn(hour)
            .expect("the supervisor is open")
            .await
            .label(),
        "succeeded"
    );
    let short = Task::new(pending::<()>()).timeout(Duration::from_secs(1));
    assert_eq!(
        supervisor
            .spawn(short)
            .expect("the supervisor is open")
            .await
            .label(),
        "timed_out"
    );
}

#[tokio::test]
async fn it_does_not_count_towards_max_pending() {
    let supervisor = Supervisor::builder().max_pending(1).build();
    let mut service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())),
    ));
    let spawned: Vec<_> = (0..3)
        .map(|_| {
            supervisor
                .spawn(pending::<()>())
                .expect("the supervisor is open")
        })
        .collect();
    assert_eq!(supervisor.stats().pending(), 3);
    assert!(tokio_test::task::spawn(service.ready()).poll().is_ready());
    let tasks = answered(&supervisor, "/").await;
    tasks.add(pending::<()>());
    assert!(
        tokio_test::task::spawn(service.ready()).poll().is_pending(),
        "a task of a request counts"
    );
    // The end of a spawned task gives nothing back.
    spawned[0].abort();
    until(async || supervisor.stats().pending() == 3).await;
    assert!(tokio_test::task::spawn(service.ready()).poll().is_pending());
}

#[tokio::test]
async fn its_code_adds_further_tasks_without_a_request() {
    let recorder = Recorder::default();
    let supervisor = Supervisor::builder()
        .max_concurrent(1)
        .order(Order::Sequential)
        .observer(recorder.clone())
        .build();
    let handle = supervisor.spawn(
        Task::with_context(async |cx| {
            assert!(cx.end().is_none(), "there is no response");
            let tasks = BackgroundTasks::current().expect("this is code of the supervisor");
            tasks.add(Task::with_context(async |cx| assert!(cx.end().is_none())).named("added"));
            defer(Task::new(async {}).named("deferred").when(When::Success))
        })
        .named("parent"),
    );
    assert_eq!(
        soon(handle.expect("the supervisor is open")).await.label(),
        "succeeded"
    );
    soon(supervisor.idle()).await;
    let mut ended = recorder.lines_of("ended");
    ended.sort();
    assert_eq!(
        ended,
        [
            "ended added succeeded",
            "ended deferred succeeded",
            "ended parent succeeded"
        ]
    );
    assert!(
        recorder
            .lines_of("done")
            .iter()
            .all(|line| line.starts_with("done - ")),
        "there is no request"
    );
    assert!(recorder.lines_of("response").is_empty());
}

#[tokio::test(start_paused = true)]
async fn it_is_listed_cancelled_and_awaited_by_a_shutdown() {
    let supervisor = Supervisor::new();
    let cancelled = Task::with_context(async |cx| cx.cancelled().await).named("heeds");
    let heeds = supervisor.spawn(cancelled).expect("the supervisor is open");
    let ignores = supervisor
        .spawn(Task::new(pending::<()>()).named("ignores"))
        .expect("the supervisor is open");
    settle().await;
    let listed: Vec<_> = supervisor
        .tasks()
        .iter()
        .map(|task| (task.path().is_some(), task.method().is_some(), task.state()))
        .collect();
    assert_eq!(listed, [(false, false, TaskState::Running); 2]);
    assert_eq!(supervisor.tasks()[0].to_string(), "`heeds`, which runs");

    let report = supervisor.shutdown(Duration::from_secs(1)).await;
    assert_eq!(
        (
            report.finished(),
            report.cancelled(),
            report.abandoned().len()
        ),
        (0, 1, 1)
    );
    assert_eq!(
        (heeds.await.label(), ignores.await.label()),
        ("succeeded", "aborted")
    );
    let refused = supervisor
        .spawn(Task::new(async {}).named("late"))
        .expect_err("the supervisor was shut down");
    assert_eq!(refused.into_task().name(), Some("late"));
    assert_eq!(
        (supervisor.stats().refused, supervisor.stats().added()),
        (1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn its_fallback_runs_in_a_shutdown_and_after_it() {
    let supervisor = Supervisor::new();
    let task = || Task::new(pending::<()>()).shutdown_fallback(async {});
    let running = supervisor.spawn(task()).expect("the supervisor is open");
    settle().await;
    supervisor.shutdown(Duration::from_secs(1)).await;
    assert_eq!(running.await.label(), "fell_back");
    let late = supervisor.spawn(task()).expect("it has a fallback");
    assert_eq!(late.await.label(), "fell_back");
}

#[test]
fn without_a_runtime_it_is_aborted() {
    let supervisor = Supervisor::new();
    let handle = supervisor.spawn(async {}).expect("the supervisor is open");
    assert_eq!(
        (supervisor.stats().aborted, supervisor.stats().added()),
        (1, 1)
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    assert!(matches!(runtime.block_on(handle), Outcome::Aborted));

    // A configured runtime is enough.
    let supervisor = Supervisor::builder()
        .runtime(runtime.handle().clone())
        .build();
    let seen = Arc::new(Mutex::new(None));
    let noting = seen.clone();
    let handle = supervisor.spawn(async move {
        *noting.lock().unwrap() = Some(tokio::runtime::Handle::current().id());
    });
    assert!(matches!(
        runtime.block_on(handle.expect("the supervisor is open")),
        Outcome::Succeeded
    ));
    assert_eq!(*seen.lock().unwrap(), Some(runtime.handle().id()));
}
