//! What both tests share: servers of their own, the service, its client, workers as processes, and the server that mails go to.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses a part of it")]

mod nats;
#[path = "../../../../tests/support/postgres.rs"]
mod postgres;
#[path = "../../../../tests/support/raw.rs"]
mod raw;

pub use self::{
    nats::{Nats, connection},
    postgres::Postgres,
    raw::Raw,
};

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use queues::MailServer;
use reqwest::StatusCode;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

/// The upper bound for anything that a test waits for. Nothing waits for it in a run that passes.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// After which a silent worker is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(2);

/// Awaits an event that must come.
pub async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(PATIENCE, event).await.expect("the event that the test waits for should come")
}

/// Serves a router by axum's own server, for as long as the test runs.
pub async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Signs up, and tells what the service answered.
pub async fn sign_up(service: SocketAddr, address: &str) -> (StatusCode, String) {
    let request = client().post(format!("http://{service}/sign-up")).body(address.to_owned());
    let response = soon(request.send()).await.expect("the service answers");
    (response.status(), soon(response.text()).await.expect("it is text"))
}

/// Requests a path.
pub async fn get(service: SocketAddr, path: &str) -> StatusCode {
    soon(client().get(format!("http://{service}{path}")).send()).await.expect("the service answers").status()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client needs nothing")
}

/// The server that mails go to: the test itself.
pub struct Mails(TcpListener);

impl Mails {
    pub async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    pub fn server(&self) -> MailServer {
        MailServer(self.0.local_addr().expect("it is bound"))
    }

    /// The next mail that a worker wants to send.
    pub async fn next(&self) -> Sending {
        let (stream, _) = soon(self.0.accept()).await.expect("it listens");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        soon(stream.read_line(&mut line)).await.expect("a worker sends text");
        Sending { mail: line.trim_end().to_owned(), stream }
    }

    /// Takes the next mail, and tells which.
    pub async fn take(&self) -> String {
        let sending = self.next().await;
        let mail = sending.mail.clone();
        sending.take().await;
        mail
    }

    /// Takes all mails from now on, and notes which.
    pub fn take_all(self) -> Arc<Mutex<Vec<String>>> {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&taken);
        tokio::spawn(async move {
            loop {
                let mail = self.take().await;
                noted.lock().unwrap().push(mail);
            }
        });
        taken
    }
}

/// A mail that a worker sends, and waits to be told of.
pub struct Sending {
    /// Its attempt and its address.
    pub mail: String,
    stream: BufReader<TcpStream>,
}

impl Sending {
    pub async fn take(mut self) {
        // Its worker may be gone.
        let _ = self.stream.write_all(b"ok").await;
        // So that it is not gone before it has read that.
        let _ = soon(self.stream.read_u8()).await;
    }

    pub async fn refuse(mut self) {
        let _ = self.stream.write_all(b"no").await;
        let _ = soon(self.stream.read_u8()).await;
    }
}

/// A worker in a process of its own.
pub struct Worker(Child);

impl Worker {
    pub fn start(queue: &str, mails: &Mails) -> Self {
        let worker = Command::new(env!("CARGO_BIN_EXE_worker"))
            .args([queue, &mails.server().0.to_string(), &DEAD_AFTER.as_secs().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        Self(worker.expect("it was built"))
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        soon(self.0.kill()).await.expect("it runs");
    }
}
