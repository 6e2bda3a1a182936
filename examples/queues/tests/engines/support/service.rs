//! Processes of the program `service`, which are killed with SIGKILL.

use std::{net::SocketAddr, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use super::{DEAD_AFTER, Mails, soon};

/// A web service in a process.
pub struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    pub async fn start(module: &str, postgres: &str, nats: &str) -> Self {
        let mut process = command(&["serve", module, postgres, nats]);
        let process = process.stdout(Stdio::piped()).spawn();
        let mut process = process.expect("the service starts");
        let output = process.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(output).lines();
        let line = soon("the service listens", lines.next_line()).await;
        let line = line.expect("it is text").expect("the service runs");
        let address = line.parse().expect("it is an address");
        Self { process, address }
    }

    /// Posts a text. Returns the status of the response.
    pub async fn post(&self, path: &str, text: &str) -> u16 {
        self.post_with(path, "accept: */*", text).await
    }

    /// Posts a text with one more header.
    pub async fn post_with(&self, path: &str, header: &str, text: &str) -> u16 {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n\
            content-length: {}\r\n\r\n{text}",
            text.len()
        );
        let response = async {
            let mut client = TcpStream::connect(self.address).await?;
            client.write_all(request.as_bytes()).await?;
            let mut response = String::new();
            client.read_to_string(&mut response).await?;
            std::io::Result::Ok(response)
        };
        let response = soon("the service answers", response).await;
        let response = response.expect("the connection stays");
        let status = response.split(' ').nth(1).expect("it is a response");
        status.parse().expect("it is a status")
    }

    pub async fn kill(mut self) {
        let killed = soon("the service is killed", self.process.kill()).await;
        killed.expect("the service ran");
    }
}

/// A worker in a process.
pub struct Worker(Child);

impl Worker {
    pub fn start(module: &str, postgres: &str, nats: &str, mails: &Mails) -> Self {
        let server = mails.server().0.to_string();
        let seconds = DEAD_AFTER.as_secs().to_string();
        let mut process = command(&["work", module, postgres, nats, &server, &seconds]);
        Self(process.spawn().expect("the worker starts"))
    }

    /// Sends SIGINT, and waits for the end.
    pub async fn stop(mut self) {
        let id = self.0.id().expect("the worker runs").to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await;
        assert!(sent.expect("kill runs").success());
        let ended = soon("the worker ends", self.0.wait()).await;
        assert!(ended.expect("it was started").success());
    }

    pub async fn kill(mut self) {
        let killed = soon("the worker is killed", self.0.kill()).await;
        killed.expect("the worker ran");
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}
