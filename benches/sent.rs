//! What it costs to know when the socket took the last byte: responses per second over loopback, with the wrapper and
//! `Release::Sent`, and without both.
//!
//! `cargo bench --bench sent --features sent`. Both ways run in turns in one process, with a task each, and the ratio is of their
//! best rounds; a figure above 1 is noise, as the wrapper does nothing that saves time.

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
use tower_background::{BackgroundLayer, BackgroundTasksExt, Release, SentStream, Supervisor};

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);
const SIZES: [(&str, usize); 2] = [("5 bytes", 5), ("1 MiB", 1 << 20)];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    println!("| protocol | response | without, per second | with, per second | with : without |");
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
            println!("| {protocol} | {name} | {:.0} | {:.0} | {:.3} |", best[0], best[1], best[1] / best[0]);
        }
    }
}

/// Serves the body with a task, with the wrapper or without.
async fn serve(body: Bytes, sent: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let release = if sent { Release::Sent } else { Release::EndOfStream };
    let supervisor = Supervisor::builder().release(release).build();
    let service = BackgroundLayer::with(supervisor).layer(service_fn(move |request: Request<Incoming>| {
        request.background_tasks().expect("the layer is there").add(async {});
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(body.clone()))))
    }));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("it listens");
            stream.set_nodelay(true).expect("it is a TCP stream");
            let service = service.clone();
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                // The client ends the connection when its round is over.
                if sent {
                    let stream = SentStream::new(stream);
                    let service = TowerToHyperService::new(stream.connection().layer(service));
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let service = TowerToHyperService::new(service);
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    });
    address
}

/// Responses per second of one round.
async fn round(address: SocketAddr, multiplexed: bool) -> f64 {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let stream = TcpStream::connect(address).await.expect("the server listens");
            stream.set_nodelay(true).expect("it is a TCP stream");
            if multiplexed { http2(stream, begun).await } else { http1(stream, begun).await }
        });
    }
    let responses: u32 = clients.join_all().await.into_iter().sum();
    f64::from(responses) / begun.elapsed().as_secs_f64()
}

fn request() -> Request<Full<Bytes>> {
    Request::get("http://localhost/").body(Full::default()).expect("a request")
}

async fn http1(stream: TcpStream, begun: Instant) -> u32 {
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP/1.1");
    tokio::spawn(connection);
    let mut responses = 0;
    while begun.elapsed() < ROUND {
        sender.ready().await.expect("it is open");
        let response = sender.send_request(request()).await.expect("the server answers");
        response.into_body().collect().await.expect("it is whole");
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
        let response = sender.send_request(request()).await.expect("the server answers");
        response.into_body().collect().await.expect("it is whole");
        responses += 1;
    }
    responses
}
