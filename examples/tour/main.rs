//! A page on this machine that shows what happens, live: what the client sees, when the response is over, and each task.
//!
//! `cargo run --example tour`, then open the address that it prints; an address may follow, as in
//! `-- 127.0.0.1:3000`. With `-- --once` it makes one request to itself, prints the figures and ends.

mod demos;
mod news;
mod page;
mod reporter;
mod slow;
mod stage;

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpSocket, signal};
use tower_background::BoxError;

use crate::{news::News, stage::Stage};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (flags, addresses): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|argument| argument == "--once");
    let address: SocketAddr = addresses.first().map_or("127.0.0.1:0", String::as_str).parse()?;

    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // The system then takes little of a response ahead of its client, so that a slow client can be seen from the server.
    socket.set_send_buffer_size(16 * 1024)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(128)?;
    let address = listener.local_addr()?;

    let news = Arc::new(News::default());
    let stage = Arc::new(Stage::new(Arc::clone(&news)));
    let app = page::router(address, Arc::clone(&stage), Arc::clone(&news));
    let showing = Arc::clone(&stage);
    let once = !flags.is_empty();
    let ending = async move {
        if !once {
            println!("http://{address}");
            signal::ctrl_c().await.expect("Ctrl-C can be listened for");
        } else if let Err(error) = visit(address, &showing).await {
            eprintln!("the call failed: {error}");
            std::process::exit(1);
        }
        // The stream of news has no end of its own, and would keep the server.
        news.close();
    };
    axum::serve(listener, app).with_graceful_shutdown(ending).await?;
    stage.supervisor().shutdown(Duration::from_secs(3)).await;
    Ok(())
}

/// Makes one request, as the page does, and waits for its tasks.
async fn visit(address: SocketAddr, stage: &Stage) -> Result<(), BoxError> {
    let response = reqwest::get(format!("http://{address}/demo/quick/once")).await?.error_for_status()?;
    println!("the client has its answer: {}", response.text().await?.trim_end());
    let supervisor = stage.supervisor();
    println!("tasks that have not ended by then: {}", supervisor.stats().pending());
    supervisor.idle().await;
    println!("\n{:?}", supervisor.stats());
    Ok(())
}
