//! A page that shows live what the client sees, when the response is over, and what each task does.
//!
//! Start it with `cargo run --example tour`, and open the address that it prints. `-- --help` lists
//! the options.

mod demos;
mod events;
mod news;
mod page;
mod reporter;
mod slow;
mod stage;

use std::{env, net::SocketAddr, process::exit, sync::Arc, time::Duration};

use tokio::{net::TcpSocket, signal};
use tower_background::BoxError;
use tracing_subscriber::prelude::*;

use crate::{events::Events, news::News, stage::Stage};

const HELP: &str = "\
Shows live what tower-background does: the client, the response, and each task.

Usage: cargo run --example tour [-- [OPTIONS] [ADDRESS]]

Arguments:
  [ADDRESS]  Where to listen, as 127.0.0.1:3000. Port 0 is any free port [default: 127.0.0.1:0]

Options:
      --once  Make one request, print the statistics and end
  -h, --help  Print this help

Scenes, each with a button on the page:
  quick, stream, slow, abort         A response, its client, and the tasks after it
  fail, panic                        Tasks that go wrong
  blocking, burst, limit, unique     How many tasks run at once
  context                            The user of a request, in its task
  socket, feed, fallback, shutdown   A WebSocket, and the end of the supervisor

The picture of the README, docs/tour.png, is made by:
  cargo test --all-features --test integrations picture_of_the_readme -- --ignored
";

struct Arguments {
    address: SocketAddr,
    once: bool,
}

/// Reads the arguments. After `--help`, or a mistake, the process ends.
fn arguments() -> Arguments {
    let mut arguments = Arguments {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        once: false,
    };
    for argument in env::args().skip(1) {
        match (argument.as_str(), argument.parse()) {
            ("--once", _) => arguments.once = true,
            ("-h" | "--help", _) => {
                print!("{HELP}");
                exit(0);
            }
            (_, Ok(address)) => arguments.address = address,
            (_, Err(_)) => {
                eprint!(
                    "error: {argument:?} is neither an option nor an address with a port\n\n{HELP}"
                );
                exit(2);
            }
        }
    }
    arguments
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let Arguments { address, once } = arguments();
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // With a small buffer the system takes little of a response before the client reads it, so the
    // server notices a slow client.
    socket.set_send_buffer_size(16 * 1024)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(128)?;
    let address = listener.local_addr()?;

    let news = Arc::new(News::default());
    tracing_subscriber::registry()
        .with(Events(Arc::clone(&news)))
        .init();
    let stage = Arc::new(Stage::new(Arc::clone(&news)));
    let app = page::router(address, Arc::clone(&stage), Arc::clone(&news));
    let showing = Arc::clone(&stage);
    let ending = async move {
        if !once {
            println!("http://{address}");
            signal::ctrl_c().await.expect("Ctrl-C can be listened for");
        } else if let Err(error) = visit(address, &showing).await {
            eprintln!("the call failed: {error}");
            exit(1);
        }
        // The stream of news has no end, so the server would wait for it.
        news.close();
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(ending)
        .await?;
    stage.supervisor().shutdown(Duration::from_secs(3)).await;
    Ok(())
}

/// Makes one request, as the page does, and waits for its tasks.
async fn visit(address: SocketAddr, stage: &Stage) -> Result<(), BoxError> {
    let response = reqwest::get(format!("http://{address}/demo/quick/once"))
        .await?
        .error_for_status()?;
    println!(
        "the client has its answer: {}",
        response.text().await?.trim_end()
    );
    let supervisor = stage.supervisor();
    println!(
        "tasks that have not ended by then: {}",
        supervisor.stats().pending()
    );
    supervisor.idle().await;
    println!("\ntasks: {}", supervisor.stats());
    Ok(())
}
