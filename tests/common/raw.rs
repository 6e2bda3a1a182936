//! An HTTP/1.1 client that sends and reads bytes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::soon;

/// A connection.
pub struct Raw(TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(
            TcpStream::connect(address)
                .await
                .expect("the server listens"),
        )
    }

    /// A connection whose client's side takes little that is not read.
    pub async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket
            .set_recv_buffer_size(16 * 1024)
            .expect("the system lets it be small");
        Self(socket.connect(address).await.expect("the server listens"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0
            .write_all(bytes.as_ref())
            .await
            .expect("the server reads");
    }

    /// Requests a path, and leaves the connection open.
    pub async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
    }

    /// Requests a path, and asks the server to close the connection after the response.
    pub async fn get_last(&mut self, path: &str) {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
        .await;
    }

    /// Reads up to and with `end`, and not a byte more.
    pub async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = soon(self.0.read_u8()).await;
            read.push(byte.unwrap_or_else(|error| {
                panic!("{error}, after {:?}", String::from_utf8_lossy(&read))
            }));
        }
        String::from_utf8(read).expect("the tests send text")
    }

    /// Reads so many bytes.
    pub async fn exactly(&mut self, count: usize) {
        let mut read = vec![0; count];
        soon(self.0.read_exact(&mut read))
            .await
            .expect("there is more");
    }

    /// Reads until the server closes.
    pub async fn rest(&mut self) -> String {
        let mut read = String::new();
        soon(self.0.read_to_string(&mut read))
            .await
            .expect("the server closes");
        read
    }

    /// Reads until the server closes what need not be text.
    pub async fn bytes(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        soon(self.0.read_to_end(&mut read))
            .await
            .expect("the server closes");
        read
    }

    /// Says that nothing more will be sent, and still reads.
    pub async fn finish(&mut self) {
        self.0.shutdown().await.expect("the server is there");
    }

    /// Leaves by a reset.
    pub fn reset(self) {
        self.0.set_zero_linger().expect("the socket is open");
    }
}
