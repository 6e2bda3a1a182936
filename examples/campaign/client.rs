//! An HTTP/1.1 client that tells how far an answer gets.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{PATIENCE, books::Seen};

pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Requests a path, and tells each step of the answer; returns when it is whole.
    ///
    /// # Errors
    ///
    /// The connection was lost before, or the answer is no success; then it is of no more use.
    pub async fn get(&mut self, path: &str, mut tell: impl FnMut(Seen)) -> io::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.read.clear();
        let mut body = None;
        loop {
            self.more().await?;
            if body.is_none() {
                body = self.read.windows(4).position(|four| four == b"\r\n\r\n").map(|end| end + 4);
                if body.is_some() {
                    if !self.read.starts_with(b"HTTP/1.1 200") {
                        return Err(io::Error::other(String::from_utf8_lossy(&self.read).into_owned()));
                    }
                    tell(Seen::Head);
                }
            }
            if body.is_some_and(|body| self.read.len() > body) {
                tell(Seen::Body);
                // A last chunk, after others of letters.
                if self.read.ends_with(b"\r\n0\r\n\r\n") {
                    tell(Seen::Whole);
                    return Ok(());
                }
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
