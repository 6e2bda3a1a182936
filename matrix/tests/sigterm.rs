//! Every server, as a process, stops in order at SIGTERM while streams, web sockets and an upload are open.

use std::{process::Stdio, time::Duration};

use futures_util::{StreamExt, TryStreamExt, future::join_all};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tower_background_matrix::{Case, Client, PATIENCE, SERVERS, Server};

const STREAMS: usize = 10;
const SOCKETS: usize = 3;
/// The time that the process gives its tasks.
const GRACE: Duration = Duration::from_secs(10);

async fn check(server: &Server) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tower-background-matrix"))
        .args(["serve", server.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the server can be run");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let target = lines.next_line().await.expect("it prints text");
    let target = target.expect("it prints its target").parse();
    let target = target.expect("it is a target");
    let client = Client::new(target, server.protocol).await;
    let client = client.expect("the client connects");

    let streams = join_all((0..STREAMS).map(|_| async {
        let mut messages = client.open("endless").await.expect("the server answers");
        let first = messages.next().await.expect("the stream is open");
        assert_eq!(first.expect("the stream is in order"), "first");
        messages
    }));
    let streams = streams.await;
    let count = if Case::SocketAtShutdown.is_possible(server) {
        SOCKETS
    } else {
        0
    };
    let sockets = join_all((0..count).map(|_| async {
        let mut socket = client.socket().await.expect("the server upgrades");
        let hello = socket.next().await.expect("the WebSocket is open");
        assert_eq!(hello.expect("it is in order").into_data(), "hello");
        socket
    }));
    let sockets = sockets.await;
    let uploads = usize::from(Case::UploadAtShutdown.is_possible(server));

    let (parts, receiver) = mpsc::channel(1);
    let signalled = async {
        if uploads == 1 {
            parts.send("first").await.expect("the client sends it");
            let begun = lines.next_line().await.expect("it prints text");
            assert_eq!(begun.as_deref(), Some("an upload has begun"));
        }
        let pid = child.id().expect("it runs").to_string();
        let kill = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(kill.expect("`kill` is there").success());
        let signalled = Instant::now();
        for messages in streams {
            let rest: Vec<_> = messages.try_collect().await.expect("the stream ends well");
            assert_eq!(rest.concat(), b"");
        }
        for mut socket in sockets {
            let close = socket.next().await.expect("the WebSocket is open");
            assert!(close.expect("it is in order").is_close());
            while let Some(Ok(_)) = socket.next().await {}
        }
        // The upload goes on after all the others have ended.
        if uploads == 1 {
            parts.send("last").await.expect("the client sends it");
        }
        drop(parts);
        signalled
    };
    let uploaded = async {
        if uploads == 1 {
            let answer = client.upload(receiver).await.expect("the server answers");
            assert_eq!(answer, "9 bytes");
        }
    };
    let (signalled, ()) = tokio::join!(signalled, uploaded);
    drop(client);
    let status = child.wait().await.expect("it can be waited for");
    assert!(signalled.elapsed() < GRACE, "{:?}", signalled.elapsed());
    let last = lines.next_line().await.expect("it prints text");
    // For each WebSocket: the task of the request, the conversation, and what it added at its end.
    let tasks = STREAMS + 3 * count + uploads;
    let expected = format!("clean=true added={tasks} succeeded={tasks} refused=0");
    assert_eq!(last, Some(expected));
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server() {
    let mut running = JoinSet::new();
    for server in SERVERS {
        running.spawn(async move {
            let checked = timeout(PATIENCE, check(server)).await;
            checked.unwrap_or_else(|_| panic!("{server:?} does not stop"));
        });
    }
    running.join_all().await;
}
