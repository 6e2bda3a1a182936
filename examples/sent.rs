//! A download whose task starts when the socket took the last byte, however slowly the client
//! reads.
//!
//! `cargo run --example sent --features axum,sent-axum` starts a server, and downloads from it with
//! a client that reads nothing for half a second. It prints what happens. Then it serves until
//! Ctrl-C. With `--once` it stops after its own download.

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
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, StartOn, Supervisor, Task, sent,
};

/// More bytes than the operating system buffers for a client that does not read.
const LENGTH: usize = 32 << 20;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let once = env::args().any(|argument| argument == "--once");
    let supervisor = Supervisor::builder()
        .start_on(StartOn::LastByteSent)
        .build();
    let app = Router::new()
        .route("/", get(download))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("serves http://{address}");

    // The only change is `sent::serve` in place of `axum::serve`.
    let server = sent::serve(listener, app);
    let visited = supervisor.clone();
    let visit = async move {
        if let Err(error) = visit(address).await {
            eprintln!("the download failed: {error}");
        }
        visited.idle().await;
        if !once {
            println!("serves until Ctrl-C");
            let _ = signal::ctrl_c().await;
        }
    };
    server.with_graceful_shutdown(visit).await?;
    supervisor.shutdown(Duration::from_secs(10)).await;
    println!("tasks: {}", supervisor.stats());
    Ok(())
}

async fn download(tasks: BackgroundTasks) -> Vec<u8> {
    let called = Instant::now();
    tasks.add(Task::with_context(move |cx| async move {
        if let Some(end) = cx.end() {
            let elapsed = called.elapsed();
            println!(
                "task:   {:?} after {elapsed:?}, {} bytes",
                end.kind(),
                end.bytes()
            );
        }
    }));
    vec![b'.'; LENGTH]
}

async fn visit(address: SocketAddr) -> io::Result<()> {
    let mut client = TcpStream::connect(address).await?;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    client.read_u8().await?;
    println!("client: got the first byte, and reads nothing for half a second");
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("client: reads on");
    let mut read = Vec::new();
    client.read_to_end(&mut read).await?;
    println!("client: got all bytes");
    Ok(())
}
