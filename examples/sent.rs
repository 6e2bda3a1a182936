//! A download whose task starts when the socket took the last byte, however slow its reader is.
//!
//! `cargo run --example sent --features axum,sent-axum` starts a server, downloads from it once by a client that reads nothing
//! for half a second, and tells what happened when. Then it serves until Ctrl-C; with `--once` it stops after its own call.

use std::{
    env, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal,
};
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Release, Supervisor, Task};

/// More than the system takes for a client that does not read.
const LENGTH: usize = 32 << 20;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let once = env::args().any(|argument| argument == "--once");
    let supervisor = Supervisor::builder().release(Release::Sent).build();
    let app = Router::new().route("/", get(download)).layer(BackgroundLayer::with(supervisor.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("serves http://{address}");

    // This in place of `axum::serve` is all that it takes.
    let server = tower_background::serve(listener, app);
    let visited = supervisor.clone();
    let visit = async move {
        if let Err(error) = visit(address).await {
            eprintln!("the own call failed: {error}");
        }
        visited.idle().await;
        if !once {
            println!("serves until Ctrl-C");
            let _ = signal::ctrl_c().await;
        }
    };
    server.with_graceful_shutdown(visit).await?;
    supervisor.shutdown(Duration::from_secs(10)).await;
    println!("succeeded: {}", supervisor.stats().succeeded);
    Ok(())
}

async fn download(tasks: BackgroundTasks) -> Vec<u8> {
    let called = Instant::now();
    tasks.add(Task::with_context(move |cx| async move {
        println!("task:   {:?} after {:?}, {} bytes", cx.end().kind(), called.elapsed(), cx.end().bytes());
    }));
    vec![b'.'; LENGTH]
}

async fn visit(address: SocketAddr) -> io::Result<()> {
    let mut client = TcpStream::connect(address).await?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    client.read_u8().await?;
    println!("client: has the first byte, and reads nothing for half a second");
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("client: reads on");
    let mut read = Vec::new();
    client.read_to_end(&mut read).await?;
    println!("client: has all of it");
    Ok(())
}
