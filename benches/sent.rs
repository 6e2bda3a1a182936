//! The cost of `StartOn::LastByteSent`: responses per second over loopback, on tracked connections
//! and without tracking.
//!
//! Run it by `cargo bench --bench sent --features sent`. Both ways take turns in one process, with
//! one task for each response. The ratio compares their best rounds. A ratio above 1 is noise,
//! because tracking saves no time.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::{Layer, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, StartOn, Supervisor, sent::SentStream,
};

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);
const SIZES: [(&str, usize); 2] = [("5 bytes", 5), ("1 MiB", 1 << 20)];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("| protocol | response | untracked, per second | tracked, per second | ratio |");
    println!("|---|---|---:|---:|---:|");
    for multiplexed in [false, true] {
        for (name, size) in SIZES {
            let body = Bytes::from(vec![b'.'; size]);
            let servers = [serve(body.clone(), false).await, serve(body, true).await];
            let mut best = [0.0_f64; 2];
            for _ in 0..ROUNDS {
                for (best, address) in best.iter_mut().zip(servers) {
                    *best = best.max(round(address, multiplexed).await);
                }
            }
            let protocol = if multiplexed { "HTTP/2" } else { "HTTP/1.1" };
            println!(
                "| {protocol} | {name} | {:.0} | {:.0} | {:.3} |",
                best[0],
                best[1],
                best[1] / best[0]
            );
        }
    }
}

/// Serves the body, and adds a task to each request. Tracks the connections or not.
async fn serve(body: Bytes, tracked: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let start_on = if tracked {
        StartOn::LastByteSent
    } else {
        StartOn::EndOfStream
    };
    let supervisor = Supervisor::builder().start_on(start_on).build();
    let service = BackgroundLayer::with_supervisor(supervisor).layer(service_fn(
        move |request: Request<Incoming>| {
            request
                .background_tasks()
                .expect("the layer is there")
                .add(async {});
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(body.clone()))))
        },
    ));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("it listens");
            stream.set_nodelay(true).expect("it is a TCP stream");
            let service = service.clone();
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                // The client ends the connection when its round is over.
                if tracked {
                    let stream = SentStream::new(stream);
                    let service = TowerToHyperService::new(stream.connection().layer(service));
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                } else {
                    let service = TowerToHyperService::new(service);
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }
            });
        }
    });
    address
}

/// Runs one round, and returns the responses per second.
async fn round(address: SocketAddr, multiplexed: bool) -> f64 {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let stream = TcpStream::connect(address)
                .await
                .expect("the server listens");
            stream.set_nodelay(true).expect("it is a TCP stream");
            if multiplexed {
                http2(stream, begun).await
            } else {
                http1(stream, begun).await
            }
        });
    }
    let responses: u32 = clients.join_all().await.into_iter().sum();
    f64::from(responses) / begun.elapsed().as_secs_f64()
}

fn request() -> Request<Full<Bytes>> {
    Request::get("http://localhost/")
        .body(Full::default())
        .expect("a request")
}

async fn http1(stream: TcpStream, begun: Instant) -> u32 {
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("it speaks HTTP/1.1");
    tokio::spawn(connection);
    let mut responses = 0;
    while begun.elapsed() < ROUND {
        sender.ready().await.expect("the connection is open");
        read(sender.send_request(request()).await).await;
        responses += 1;
    }
    responses
}

async fn http2(stream: TcpStream, begun: Instant) -> u32 {
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let mut responses = 0;
    while begun.elapsed() < ROUND {
        read(sender.send_request(request()).await).await;
        responses += 1;
    }
    responses
}

/// Reads a response to its end.
async fn read(response: hyper::Result<Response<Incoming>>) {
    let response = response.expect("the server answers");
    response
        .into_body()
        .collect()
        .await
        .expect("the response is whole");
}
