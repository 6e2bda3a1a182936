//! HTTP/1.1, with raw TCP clients.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    support::{Script, Server, Step, soon},
    table::check,
};

/// Sends one request and reads until the server closes.
async fn exchange(server: &Server, head: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.expect("the server listens");
    stream.write_all(format!("{head}host: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("it reads");
    let mut response = String::new();
    soon(stream.read_to_string(&mut response)).await.expect("it answers");
    response
}

#[tokio::test]
async fn full() {
    let server = Server::new(|_, _| Response::new(Full::<Bytes>::from("hello"))).await;
    let response = exchange(&server, "GET / HTTP/1.1\r\n").await;
    assert!(response.ends_with("\r\n\r\nhello"), "{response}");
    check(&server, "HTTP/1.1", "`Full`").await;
}

#[tokio::test]
async fn chunked_stream() {
    let server =
        Server::new(|_, course| Response::new(Script::new([Step::data("one"), Step::data("two")]).seen_by(course.expect_body())))
            .await;
    let response = exchange(&server, "GET / HTTP/1.1\r\n").await;
    assert!(response.ends_with("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), "{response}");
    check(&server, "HTTP/1.1", "chunked stream").await;
}
