//! What a task sees of a response over HTTP/3, and what it cannot see.

use bytes::Buf;
use futures_util::TryStreamExt;
use http::Method;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_background_matrix::{App, Control, Event, PATIENCE, Protocol, Running, SERVERS, http3};

async fn serve() -> (App, Control, CancellationToken, Running) {
    let (app, control) = App::new();
    let stop = CancellationToken::new();
    let mut servers = SERVERS.iter();
    let server = servers.find(|server| server.protocol == Protocol::Http3);
    let server = server.expect("there is a server for HTTP/3");
    let running = server.serve(app.clone(), stop.clone()).await;
    (app, control, stop, running.expect("the server starts"))
}

/// Waits for the task, and returns what it saw.
async fn task(control: &mut Control) -> String {
    loop {
        if let (_, Event::Task(end)) = control.next().await {
            return end;
        }
    }
}

async fn shut_down(app: App, control: Control, stop: CancellationToken, running: Running) {
    control.let_tasks_end();
    stop.cancel();
    let stopped = running.stopped.await.expect("the server does not panic");
    stopped.expect("the server stops in order");
    assert!(app.supervisor().shutdown(PATIENCE).await.is_clean());
}

/// h3 does not tell a server that a client has reset a stream: the next write fails.
#[tokio::test]
async fn a_reset_of_a_silent_stream_is_seen_at_its_next_frame() {
    let test = async {
        let (app, mut control, stop, running) = serve().await;
        let mut sender = http3::connect(&running.target).await.expect("it connects");
        let stream = http3::request(&mut sender, Method::GET, "stream").await;
        let mut stream = stream.expect("the connection is open");
        // This fails if the server has answered and wants no body.
        let _ = stream.finish().await;
        stream.recv_response().await.expect("the server answers");
        let first = stream.recv_data().await.expect("the stream is in order");
        assert_eq!(first.expect("the stream is open").chunk(), b"first");
        // QUIC then tells the server to stop sending.
        drop(stream);

        // The server has the reset when it answers a later request of this connection.
        let later = http3::request(&mut sender, Method::GET, "nothing").await;
        let mut later = later.expect("the connection is open");
        let _ = later.finish().await;
        let answer = later.recv_response().await.expect("the server answers");
        assert_eq!(answer.status(), 404);
        assert_eq!(app.supervisor().open_responses(), 1);
        assert_eq!(app.supervisor().stats().deferred, 1);

        control.go_on();
        assert_eq!(task(&mut control).await, "Interrupted");
        drop((later, sender));
        shut_down(app, control, stop, running).await;
    };
    timeout(PATIENCE, test).await.expect("it comes to its end");
}

/// As over TCP, "complete" says that the transport has the response, and not that the client has it.
#[tokio::test]
async fn a_response_is_complete_before_the_client_reads_it() {
    let test = async {
        let (app, mut control, stop, running) = serve().await;
        let mut sender = http3::connect(&running.target).await.expect("it connects");
        let stream = http3::request(&mut sender, Method::GET, "success").await;
        let mut stream = stream.expect("the connection is open");
        let _ = stream.finish().await;
        assert_eq!(task(&mut control).await, "Complete");

        let body = http3::answer(sender, stream)
            .await
            .expect("the server answers");
        let body: Vec<_> = body.try_collect().await.expect("the response is whole");
        assert_eq!(body.concat(), b"hello");
        shut_down(app, control, stop, running).await;
    };
    timeout(PATIENCE, test).await.expect("it comes to its end");
}
