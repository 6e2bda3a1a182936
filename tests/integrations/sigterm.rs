//! The examples of a shutdown survive a real SIGTERM under load: no request that was answered loses
//! its task. A client that has stopped in the middle of a request does not hold them up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify, task::JoinSet};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::common::{ended, start, terminate};

const CONNECTIONS: usize = 8;
/// How many answers are waited for before the signal.
const ANSWERS: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the clients and the test tell each other.
#[derive(Default)]
struct Load {
    answers: AtomicU64,
    enough: Notify,
    signalled: AtomicBool,
}

impl Load {
    fn answered(&self) {
        if self.answers.fetch_add(1, SeqCst) + 1 == ANSWERS {
            self.enough.notify_one();
        }
    }

    /// Checks that a server fails a request only when it is to stop.
    fn failed(&self, error: &dyn std::error::Error) {
        assert!(
            self.signalled.load(SeqCst),
            "a request failed before the signal: {error:?}"
        );
    }
}

/// Sends SIGTERM in the middle of the load that `connect` puts on the example, and compares the
/// answers with the requests and tasks of the example.
async fn survives<C: Future<Output = ()> + Send + 'static>(
    name: &str,
    connect: impl Fn(String, Arc<Load>) -> C,
) {
    let (child, address, lines) = start(name, "axum,tonic").await;
    let load = Arc::<Load>::default();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(connect(address.clone(), Arc::clone(&load)));
    }
    tokio::select! {
        () = load.enough.notified() => {}
        client = clients.join_next() => panic!("a client stopped before the signal: {client:?}"),
    }
    load.signalled.store(true, SeqCst);
    terminate(&child).await;
    let (status, printed) = ended(child, lines).await;
    while let Some(client) = clients.join_next().await {
        client.expect("a client does not panic");
    }
    let answers = load.answers.load(SeqCst);
    let count = |line: &str| printed.iter().filter(|printed| *printed == line).count() as u64;
    let (requests, tasks) = (count("request"), count("task"));
    let told = format!("{answers} answers, {requests} requests, {tasks} tasks; {status}");
    assert!(status.success(), "{told}");
    assert!(
        tasks >= answers,
        "a request was answered and its task not done: {told}"
    );
    assert_eq!(tasks, requests, "{told}");
    let report = printed.last().expect("the server prints a report");
    assert!(report.starts_with("clean shutdown"), "{report}");
}

/// Requests over one connection of HTTP/1.1, kept alive, until the server is gone.
async fn http1(address: String, load: Arc<Load>) {
    let client = reqwest::Client::new();
    let address = format!("http://{address}/");
    loop {
        let response = async {
            client
                .get(&address)
                .send()
                .await?
                .error_for_status()?
                .text()
                .await
        };
        match response.await {
            Ok(text) => assert_eq!(text, "done, and more to do\n"),
            Err(error) => return load.failed(&error),
        }
        load.answered();
    }
}

/// Calls over one connection of HTTP/2, some at a time, until the server is gone.
async fn grpc(address: String, load: Arc<Load>) {
    let server = Endpoint::try_from(format!("http://{address}")).expect("it is an address");
    let client = HealthClient::new(server.connect().await.expect("the server listens"));
    let calls = (0..4).map(|_| async {
        let mut client = client.clone();
        loop {
            match client.check(HealthCheckRequest::default()).await {
                Ok(response) => assert_eq!(response.into_inner().status, 1),
                Err(status) => return load.failed(&status),
            }
            load.answered();
        }
    });
    futures_util::future::join_all(calls).await;
}

/// The server of the example ends although a client has sent half a head and then stops.
async fn ends_without(name: &str) {
    let (child, address, lines) = start(name, "axum,tonic").await;
    let mut stuck = TcpStream::connect(&address).await.expect("it listens");
    stuck.write_all(b"GET / HT").await.expect("it reads");
    // The server accepts its connections in order.
    let answer = reqwest::get(format!("http://{address}/")).await;
    assert!(answer.expect("it answers").status().is_success());
    terminate(&child).await;
    let (status, printed) = ended(child, lines).await;
    assert!(status.success(), "{printed:?}");
    assert_eq!(printed.iter().filter(|line| *line == "task").count(), 1);
    drop(stuck);
}

async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, test)
        .await
        .expect("the example should come to its end");
}

#[tokio::test]
async fn axum() {
    in_time(survives("shutdown_axum", http1)).await;
}

#[tokio::test]
async fn hyper() {
    in_time(survives("shutdown_hyper", http1)).await;
}

#[tokio::test]
async fn tonic() {
    in_time(survives("shutdown_tonic", grpc)).await;
}

#[tokio::test]
async fn axum_without_a_stuck_client() {
    in_time(ends_without("shutdown_axum")).await;
}

#[tokio::test]
async fn hyper_without_a_stuck_client() {
    in_time(ends_without("shutdown_hyper")).await;
}
