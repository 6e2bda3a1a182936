//! The server that mails go to. The test decides the answer to each mail.

use queues::MailServer;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::soon;

pub const OK: [u8; 2] = *b"ok";
/// The job returns an error.
pub const REFUSED: [u8; 2] = *b"no";
/// The job panics.
pub const NO_TEXT: [u8; 2] = [0xff; 2];

pub struct Mails(TcpListener);

impl Mails {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        Self(listener.expect("a port is free"))
    }

    pub fn server(&self) -> MailServer {
        MailServer(self.0.local_addr().expect("it is bound"))
    }

    /// Waits for the next mail that a worker sends.
    pub async fn next(&self) -> Sending {
        let connection = soon("a worker sends a mail", self.0.accept()).await;
        let (stream, _) = connection.expect("it listens");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let read = soon("a worker sends a line", stream.read_line(&mut line)).await;
        read.expect("it is text");
        Sending {
            to: line.trim_end().to_owned(),
            stream,
        }
    }

    /// Waits for two mails, and answers each so that its job fails. Takes them when they come again.
    pub async fn fail_two(&self) {
        let mut failed = Vec::new();
        for answer in [REFUSED, NO_TEXT] {
            let sending = self.next().await;
            failed.push(sending.to.clone());
            sending.answer(answer).await;
        }
        let mut taken = [self.take().await, self.take().await];
        failed.sort();
        taken.sort();
        assert_eq!(taken, *failed);
        assert_ne!(taken[0], taken[1]);
    }

    /// Takes mails until this one comes.
    pub async fn take_until(&self, to: &str) {
        let mails = async { while self.take().await != to {} };
        soon("the mail comes", mails).await;
    }

    /// Waits for the next mail, and takes it. Returns its address.
    pub async fn take(&self) -> String {
        let sending = self.next().await;
        let to = sending.to.clone();
        sending.answer(OK).await;
        to
    }
}

/// A mail that a worker sends.
pub struct Sending {
    pub to: String,
    stream: BufReader<TcpStream>,
}

impl Sending {
    pub async fn answer(mut self, answer: [u8; 2]) {
        let written = self.stream.write_all(&answer).await;
        written.expect("the worker is connected");
        // The worker closes the connection when it has read the answer.
        let _ = soon("the worker reads the answer", self.stream.read_u8()).await;
    }
}
