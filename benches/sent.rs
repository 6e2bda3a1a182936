//! The cost of `StartOn::LastByteSent`: the CPU time of the server for one response on a tracked
//! connection, compared with an untracked connection.
//!
//! `cargo bench --bench sent --features sent`. With `-- short` it takes fewer rounds. The server
//! has one thread, and its clients are in another process. Each response has one task. The ways
//! take turns, and a ratio is the median over pairs of neighbouring rounds, with its quartiles in
//! brackets.
//!
//! `-- serve <HTTP/1.1 or HTTP/2> <tracked or untracked> <requests>` runs one round, for a
//! profiler.

#![expect(clippy::cast_precision_loss, reason = "the numbers are small")]

mod cpu_time;
mod figures;

use std::{
    convert::Infallible,
    env,
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
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
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tower::{Layer, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, StartOn, Supervisor, sent::SentStream,
};

use figures::{Figures, median, ratio};

const CONNECTIONS: usize = 8;
const BODY: &[u8] = b"hello";
/// The protocols, and the requests of a round.
const PROTOCOLS: [(&str, usize); 2] = [("HTTP/1.1", 40_000), ("HTTP/2", 20_000)];

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("a number");
    match arguments[..] {
        ["client", protocol, address, requests] => {
            let address = address.parse().expect("an address");
            return runtime().block_on(generate(protocol, address, number(requests)));
        }
        ["serve", protocol, way, requests, ..] => {
            let time = round(protocol, way == "tracked", number(requests));
            return println!("{time:.3} µs");
        }
        _ => {}
    }
    let (rounds, divisor) = if figures::is_short() { (7, 4) } else { (41, 1) };
    let mut figures = Figures::of("sent");
    let method = format!(
        "CPU time of the server in µs for a response of 5 bytes with one task, medians of {rounds} pairs of rounds."
    );
    let header = ["protocol", "untracked", "tracked", "ratio"];
    figures.table("sent", &method, &header);
    for (protocol, requests) in PROTOCOLS {
        let mut times = [const { Vec::new() }; 2];
        for number in 0..rounds {
            // Each way is the first one of every second pair.
            for which in [number % 2, (number + 1) % 2] {
                times[which].push(round(protocol, which == 1, requests / divisor));
            }
        }
        let [untracked, tracked] = &times;
        figures.row(&[
            protocol.to_owned(),
            format!("{:.2}", median(untracked.iter().copied())),
            format!("{:.2}", median(tracked.iter().copied())),
            ratio(tracked, untracked),
        ]);
    }
    figures.save();
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Returns the CPU time of the server for one response, in µs.
fn round(protocol: &str, tracked: bool, requests: usize) -> f64 {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let done = Arc::new(AtomicUsize::new(0));
        serve(
            listener,
            Bytes::from_static(BODY),
            tracked,
            Arc::clone(&done),
        );
        let before = cpu_time();
        let client = Command::new(env::current_exe().expect("this is a file"))
            .args(["client", protocol, &address, &requests.to_string()])
            .stderr(Stdio::inherit())
            .status();
        assert!(client.await.expect("the client runs").success());
        while done.load(Relaxed) < requests {
            tokio::task::yield_now().await;
        }
        (cpu_time() - before) / requests as f64
    })
}

/// The CPU time of this thread, in µs.
fn cpu_time() -> f64 {
    cpu_time::cpu_time().map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Serves the body, and adds a task to each request. Tracks the connections or not.
fn serve(listener: TcpListener, body: Bytes, tracked: bool, done: Arc<AtomicUsize>) {
    let start_on = if tracked {
        StartOn::LastByteSent
    } else {
        StartOn::EndOfStream
    };
    let supervisor = Supervisor::builder().start_on(start_on).build();
    let service = BackgroundLayer::with_supervisor(supervisor).layer(service_fn(
        move |request: Request<Incoming>| {
            let done = Arc::clone(&done);
            let tasks = request.background_tasks().expect("the layer is there");
            tasks.add(async move {
                done.fetch_add(1, Relaxed);
            });
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
}

/// Sends the requests.
async fn generate(protocol: &str, address: SocketAddr, requests: usize) {
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        // The first ones send the remainder of the division.
        let requests = (requests + client) / CONNECTIONS;
        let stream = TcpStream::connect(address)
            .await
            .expect("the server listens");
        stream.set_nodelay(true).expect("it is a TCP stream");
        if protocol == "HTTP/2" {
            clients.spawn(http2(stream, requests));
        } else {
            clients.spawn(http1(stream, requests));
        }
    }
    clients.join_all().await;
}

/// Writes and reads bytes, because to parse heads would cost the client more than the server.
async fn http1(mut stream: TcpStream, requests: usize) {
    let mut buffer = [0; 1024];
    for _ in 0..requests {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .expect("the server reads");
        let mut length = 0;
        while !buffer[..length].ends_with(BODY) {
            let read = stream.read(&mut buffer[length..]);
            let read = read.await.expect("the server answers");
            assert!(read > 0, "the server closed the connection");
            length += read;
        }
    }
}

async fn http2(stream: TcpStream, requests: usize) {
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    for _ in 0..requests {
        let request = Request::get("http://localhost/")
            .body(Full::<Bytes>::default())
            .expect("a request");
        let response = sender.send_request(request);
        let body = response.await.expect("the server answers").into_body();
        body.collect().await.expect("the response is whole");
    }
}
