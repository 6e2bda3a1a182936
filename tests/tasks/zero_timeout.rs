//! A task with a timeout of zero is polled once, like a future under `tokio::time::timeout` of
//! zero.

use std::{
    future::{pending, ready},
    time::Duration,
};

use tower_background::{Supervisor, Task};

use crate::common::{Call, soon, until};

#[tokio::test]
async fn as_that_of_tokio() {
    let zero = Duration::ZERO;
    assert!(tokio::time::timeout(zero, ready(())).await.is_ok());
    assert!(tokio::time::timeout(zero, pending::<()>()).await.is_err());

    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    call.tasks.add(Task::new(ready(())).timeout(zero));
    call.tasks.add(Task::new(pending::<()>()).timeout(zero));
    call.finish().await;
    soon(supervisor.idle()).await;
    let stats = supervisor.stats();
    assert_eq!(
        (stats.succeeded, stats.timed_out, stats.added()),
        (1, 1, 2),
        "{stats:?}"
    );
}

/// A blocking closure cannot be dropped while it runs. So it times out only if it has not ended by
/// then.
#[tokio::test]
async fn of_a_blocking_task() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    let (end, waiting) = std::sync::mpsc::channel::<()>();
    // The closure ends when the test drops the other half of the channel.
    let waits = move || {
        let _ = waiting.recv();
    };
    call.tasks
        .add(Task::blocking(waits).timeout(Duration::ZERO));
    call.finish().await;
    until(async || supervisor.stats().timed_out == 1).await;
    drop(end);
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().added(), 1);
}
