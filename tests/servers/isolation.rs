//! Tasks do not disturb the connection: whatever a task does, the next response has the same bytes,
//! and is not delayed.

use std::{
    future::{pending, poll_fn},
    sync::{Arc, mpsc},
    task::Poll,
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::sync::Notify;
use tower_background::{BackgroundTasksExt, Stats, Task};

use crate::common::{Raw, Server, soon};

const RESPONSE: &str = "HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 5\r\n\r\nhello";

/// Adds the task to the first of two requests on one connection. Returns the statistics when both
/// responses were read. `task` notifies when it has started.
async fn undisturbed_by(
    task: impl Fn(Arc<Notify>) -> Task + Clone + Send + Sync + 'static,
) -> (Server, Stats) {
    let begun = Arc::new(Notify::new());
    let begins = Arc::clone(&begun);
    let server = Server::new(move |request, _| {
        if request.uri().path() == "/first" {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(task(Arc::clone(&begins)));
        }
        Response::builder()
            .header("date", "today")
            .body(Full::<Bytes>::from("hello"))
            .expect("the header is valid")
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/first").await;
    assert_eq!(client.until("hello").await, RESPONSE);
    soon(begun.notified()).await;
    client.get("/second").await;
    assert_eq!(client.until("hello").await, RESPONSE);
    // The witness of each request.
    for path in ["/first", "/second"] {
        assert_eq!(server.witness.next().await.end.path(), path);
    }
    let stats = server.supervisor.stats();
    client.finish().await;
    assert_eq!(
        client.rest().await,
        "",
        "nothing but the responses was sent"
    );
    (server, stats)
}

#[tokio::test]
async fn a_task_waits_for_ever() {
    let (_server, stats) = undisturbed_by(|begun| {
        Task::new(async move {
            begun.notify_one();
            pending::<()>().await;
        })
    })
    .await;
    assert_eq!((stats.added(), stats.running), (3, 1), "{stats:?}");
}

#[tokio::test]
async fn a_task_is_busy_for_ever() {
    let (_server, stats) = undisturbed_by(|begun| {
        Task::new(async move {
            begun.notify_one();
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            })
            .await;
        })
    })
    .await;
    assert_eq!((stats.added(), stats.running), (3, 1), "{stats:?}");
}

#[tokio::test]
async fn a_task_blocks_its_thread() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(std::sync::Mutex::new(blocked));
    let (server, stats) = undisturbed_by(move |begun| {
        let blocked = Arc::clone(&blocked);
        Task::blocking(move || {
            begun.notify_one();
            // Ends when the test drops the sender.
            let _ = blocked.lock().expect("there is one task").recv();
        })
    })
    .await;
    assert_eq!((stats.added(), stats.running), (3, 1), "{stats:?}");
    drop(release);
    soon(server.supervisor.idle()).await;
    assert_eq!(server.supervisor.stats().succeeded, 3);
}

fn fails() {
    panic!("the test says so");
}

#[tokio::test]
async fn a_task_panics() {
    let (server, _) = undisturbed_by(|begun| {
        Task::new(async move {
            begun.notify_one();
            fails();
        })
    })
    .await;
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!(
        (stats.added(), stats.panicked, stats.succeeded),
        (3, 1, 2),
        "{stats:?}"
    );
}
