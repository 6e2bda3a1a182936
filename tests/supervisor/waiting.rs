//! A caller can wait until a supervisor is idle, and until the process begins to stop.

use std::time::Duration;

use tokio_test::{assert_pending, assert_ready, task::spawn};
use tower_background::{Supervisor, Task};

use crate::common::{Call, Held, answered, soon};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn idle_within_says_what_it_waits_for() {
    let (supervisor, held) = (Supervisor::builder().max_concurrent(1).build(), Held::new());
    assert!(supervisor.idle_within(SECOND).await.is_ok());
    answered(&supervisor, "/over").await.add(held.task("mail"));
    assert_eq!(held.started().await, "mail");
    answered(&supervisor, "/over").await.add(async {});
    let open = Call::new(&supervisor, "/open");
    open.tasks.add(Task::new(async {}).named("push"));

    let busy = supervisor
        .idle_within(SECOND)
        .await
        .expect_err("three tasks have not ended");
    assert_eq!((busy.tasks().len(), busy.open_responses()), (3, 1));
    assert_eq!(format!("{busy:?}"), busy.to_string());
    assert_eq!(
        busy.to_string(),
        "3 tasks have not ended: `mail` of GET /over, which runs; a task without a name of GET /over, which waits to run; \
         `push` of GET /open, whose response is open; tasks start when their response is over: read its body to the end, or \
         drop it"
    );

    held.let_go(1);
    open.finish().await;
    assert!(supervisor.idle_within(SECOND).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_long_list_of_tasks_is_cut() {
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    for _ in 0..12 {
        tasks.add(std::future::pending::<()>());
    }
    let busy = supervisor
        .idle_within(SECOND)
        .await
        .expect_err("the tasks never end");
    assert_eq!(busy.tasks().len(), 12);
    let text = busy.to_string();
    assert!(
        text.starts_with("12 tasks have not ended: ") && text.ends_with("; and 2 more"),
        "{text}"
    );
    assert_eq!(text.matches("of GET /, which runs").count(), 10, "{text}");
}

#[tokio::test(start_paused = true)]
async fn begin_shutdown_wakes_who_awaits_it_and_refuses_nothing() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    let mut of_supervisor = spawn(supervisor.stopping());
    let mut of_request = spawn(call.tasks.stopping());
    assert_pending!(of_supervisor.poll());
    assert_pending!(of_request.poll());

    supervisor.begin_shutdown();
    supervisor.begin_shutdown();
    assert!(of_supervisor.is_woken() && of_request.is_woken());
    assert_ready!(of_supervisor.poll());
    assert_ready!(of_request.poll());
    assert_ready!(spawn(supervisor.stopping()).poll(), "also who comes later");

    // Tasks of open and of new requests are taken, and no task is cancelled.
    let task = || Task::with_context(async |cx| assert!(!cx.is_cancelled()));
    call.tasks.add(task());
    call.finish().await;
    answered(&supervisor, "/later").await.add(task());
    supervisor
        .spawn(task())
        .expect("the supervisor is open")
        .await;
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().succeeded, supervisor.stats().refused),
        (3, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_begins_it_too() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    let mut stopping = spawn(call.tasks.stopping());
    assert_pending!(stopping.poll());
    let mut shutdown = spawn(supervisor.shutdown(SECOND));
    assert_pending!(shutdown.poll());
    assert!(stopping.is_woken());
    call.finish().await;
    assert!(shutdown.await.is_clean());
}
