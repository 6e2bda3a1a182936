//! A client that reads slowly. A browser reads ahead, even if the page does not, so this client is
//! a plain socket.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::sleep,
};

use crate::{demos::SLOW_BYTES, news::News};

/// How often it reads, and the pause before each time.
const READS: usize = 10;
const PAUSE: Duration = Duration::from_millis(170);

/// Calls the server of the tour, and sends the events of this client to the page.
pub(crate) async fn read_slowly(server: SocketAddr, request: &str, news: &News) {
    news.tell("sent", json!({ "request": request }));
    if let Err(error) = call(server, request, news).await {
        news.tell(
            "lost",
            json!({ "request": request, "reason": error.to_string() }),
        );
    }
}

async fn call(server: SocketAddr, request: &str, news: &News) -> io::Result<()> {
    let socket = if server.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_recv_buffer_size(16 * 1024)?;
    let mut stream = socket.connect(server).await?;
    let call =
        format!("GET /demo/slow/{request} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    stream.write_all(call.as_bytes()).await?;

    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let status: Option<u16> = std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.split(' ').nth(1)?.parse().ok());
    news.tell("head", json!({ "request": request, "status": status }));

    // The body is chunked, so there is a little more to read than the body. The last read goes to
    // the end.
    let mut part = vec![0; SLOW_BYTES / READS];
    let mut bytes = 0;
    for _ in 0..READS {
        sleep(PAUSE).await;
        match stream.read_exact(&mut part).await {
            Ok(read) => bytes += read,
            // The response is short: the supervisor has too many tasks.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        news.tell("read", json!({ "request": request, "bytes": bytes }));
    }
    stream.read_to_end(&mut Vec::new()).await?;
    news.tell("last", json!({ "request": request }));
    Ok(())
}
