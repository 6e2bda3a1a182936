//! What the layer costs a real server: axum over HTTP/1.1 and tonic over HTTP/2, on loopback, with
//! a load generator in another process.
//!
//! `cargo bench --bench load`. The server has one thread and the generator another, and 16 requests
//! are open at a time. Without the layer, the handler spawns a task. The ways take turns, so that
//! other load of the machine affects all of them. A ratio is the median over pairs of neighbouring
//! rounds, and on a busy machine it says more than two absolute numbers. The last column compares
//! with the layer that makes the same promises, and shows the quartiles of the pairs in brackets.
//! On Linux the CPU time is that of the server's thread, so the generator and other processes do
//! not add to it.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod cpu_time;
mod figures;
mod plain_layer;
mod same_promises;

use std::{
    env,
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, routing::get};
use http::Extensions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Response, Status,
    transport::{Channel, Server},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower::layer::layer_fn;
use tower_background::{BackgroundLayer, BackgroundTasksExt};

use figures::Figures;
use plain_layer::{PlainLayer, Tasks};
use same_promises::{SamePromises, Supervisor};

/// The server, and the requests of a round.
const SERVERS: [(&str, usize); 2] = [("axum", 20_000), ("tonic", 10_000)];
const WAYS: [&str; 4] = [WITHOUT, PLAIN, SAME_PROMISES, LAYER];
const WITHOUT: &str = "without";
const PLAIN: &str = "hand-written, plain";
const SAME_PROMISES: &str = "hand-written, same promises";
const LAYER: &str = "layer";
const ROUNDS: usize = 21;
const CONNECTIONS: usize = 16;
/// Requests of each connection that count for nothing.
const WARM_UP: usize = 100;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [role, server, address, requests] = &arguments[..] {
        assert_eq!(role, "client");
        let address = address.parse().expect("an address");
        let requests = requests.parse().expect("a number");
        return runtime().block_on(generate(server, address, requests));
    }
    println!(
        "{}; times in µs, medians of {ROUNDS} rounds\n",
        figures::machine()
    );
    println!(
        "| server | tasks | way | requests/s | p50 | p99 | server's CPU | requests/s, ratio | CPU, ratio \
         | CPU, ratio to the same promises |"
    );
    println!("|---|---|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut figures = Figures::of("load");
    for (server, requests) in SERVERS {
        for tasks in [0, 1] {
            let mut rounds = WAYS.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for (way, rounds) in WAYS.into_iter().zip(&mut rounds) {
                    rounds.push(round(server, way, tasks, requests));
                }
            }
            for (way, mine) in WAYS.into_iter().zip(&rounds) {
                let [rate, p50, p99, cpu] = [0, 1, 2, 3]
                    .map(|column| middle(&sorted(mine.iter().map(|round| round[column]))));
                // The ratios to another way, of rounds that were neighbours, in ascending order.
                let ratios = |column: usize, other: &str| {
                    let (_, others) = WAYS
                        .into_iter()
                        .zip(&rounds)
                        .find(|(way, _)| *way == other)
                        .expect("a way");
                    sorted(
                        mine.iter()
                            .zip(others)
                            .map(|(mine, other)| mine[column] / other[column]),
                    )
                };
                let (ratio, cpu_ratio) = (middle(&ratios(0, WITHOUT)), middle(&ratios(3, WITHOUT)));
                let beside = ratios(3, SAME_PROMISES);
                let (low, beside, high) = (
                    beside[beside.len() / 4],
                    middle(&beside),
                    beside[beside.len() * 3 / 4],
                );
                println!(
                    "| {server} | {tasks} | {way} | {rate:.0} | {p50:.0} | {p99:.0} | {cpu:.2} | {ratio:.3} | {cpu_ratio:.3} \
                     | {beside:.3} ({low:.3}-{high:.3}) |"
                );
                let columns = [
                    ("rate", rate),
                    ("p50", p50),
                    ("p99", p99),
                    ("cpu", cpu),
                    ("ratio", ratio),
                ];
                let ratios = [
                    ("cpu ratio", cpu_ratio),
                    ("cpu ratio to same promises", beside),
                ];
                for (what, figure) in columns.into_iter().chain(ratios) {
                    figures.note(&format!("{server} {what}"), way, tasks, figure);
                }
            }
        }
    }
    figures.save();
}

fn sorted(figures: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures
}

fn middle(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Requests per second, the median and the 99th percentile of their times, and the server's CPU
/// time for each request.
fn round(server: &'static str, way: &'static str, tasks: usize, requests: usize) -> [f64; 4] {
    let handler = Handler {
        way,
        tasks,
        done: Arc::default(),
    };
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let done = Arc::clone(&handler.done);
        let serving = if server == "axum" {
            serve_axum(listener, handler)
        } else {
            serve_tonic(listener, handler)
        };
        let before = cpu_time();
        let client = Command::new(env::current_exe().expect("this is a file"))
            .args(["client", server, &address, &requests.to_string()])
            .stderr(Stdio::inherit())
            .output();
        let output = client.await.expect("the generator runs").stdout;
        let all = requests + CONNECTIONS * WARM_UP;
        while done.load(Relaxed) < all * tasks {
            tokio::task::yield_now().await;
        }
        let cpu = (cpu_time() - before) / all as f64;
        assert_eq!(done.load(Relaxed), all * tasks, "no task runs twice");
        drop(serving);

        let output = String::from_utf8(output).expect("it writes text");
        let mut columns = output
            .split_whitespace()
            .map(|column| column.parse().expect("a number"));
        let mut next = || columns.next().expect("the generator tells three figures");
        [next(), next(), next(), cpu]
    })
}

/// The CPU time of this thread, in µs.
fn cpu_time() -> f64 {
    cpu_time::cpu_time().map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// What the handlers of both servers do.
#[derive(Clone)]
struct Handler {
    way: &'static str,
    tasks: usize,
    done: Arc<AtomicUsize>,
}

impl Handler {
    /// Leaves tasks for later.
    fn leave(&self, extensions: &Extensions) {
        for _ in 0..self.tasks {
            let done = Arc::clone(&self.done);
            let task = async move {
                done.fetch_add(1, Relaxed);
            };
            match self.way {
                LAYER => {
                    extensions
                        .background_tasks()
                        .expect("the layer is there")
                        .add(task);
                }
                SAME_PROMISES => {
                    assert!(
                        extensions
                            .get::<same_promises::Tasks>()
                            .expect("the layer is there")
                            .add("task", task)
                    );
                }
                PLAIN => extensions
                    .get::<Tasks>()
                    .expect("the layer is there")
                    .add(task),
                _ => drop(tokio::spawn(task)),
            }
        }
    }
}

fn serve_axum(listener: TcpListener, handler: Handler) -> JoinSet<()> {
    let way = handler.way;
    let router = Router::new().route(
        "/",
        get(move |request: Request| {
            handler.leave(request.extensions());
            std::future::ready("hello")
        }),
    );
    let router = match way {
        LAYER => router.layer(BackgroundLayer::new()),
        PLAIN => router.layer(layer_fn(PlainLayer)),
        SAME_PROMISES => {
            let supervisor = Supervisor::default();
            router.layer(layer_fn(move |inner| {
                SamePromises::new(inner, supervisor.clone())
            }))
        }
        _ => router,
    };
    let mut serving = JoinSet::new();
    serving.spawn(async {
        axum::serve(listener, router)
            .await
            .expect("it serves until it is dropped");
    });
    serving
}

fn serve_tonic(listener: TcpListener, handler: Handler) -> JoinSet<()> {
    let way = handler.way;
    let incoming = TcpListenerStream::new(listener);
    let service = HealthServer::new(handler);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut server = Server::builder();
        let result = match way {
            LAYER => {
                server
                    .layer(BackgroundLayer::new())
                    .add_service(service)
                    .serve_with_incoming(incoming)
                    .await
            }
            SAME_PROMISES => {
                let supervisor = Supervisor::default();
                let layer = layer_fn(move |inner| SamePromises::new(inner, supervisor.clone()));
                server
                    .layer(layer)
                    .add_service(service)
                    .serve_with_incoming(incoming)
                    .await
            }
            PLAIN => {
                server
                    .layer(layer_fn(PlainLayer))
                    .add_service(service)
                    .serve_with_incoming(incoming)
                    .await
            }
            _ => {
                server
                    .add_service(service)
                    .serve_with_incoming(incoming)
                    .await
            }
        };
        result.expect("it serves until it is dropped");
    });
    serving
}

#[tonic::async_trait]
impl Health for Handler {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.leave(request.extensions());
        Ok(Response::new(HealthCheckResponse {
            status: ServingStatus::Serving.into(),
        }))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nothing is measured of it"))
    }
}

/// Sends the requests, and prints the number in a second, and the median and 99th percentile of
/// their times.
async fn generate(server: &str, address: SocketAddr, requests: usize) {
    let channel = if server == "tonic" {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URI");
        Some(endpoint.connect().await.expect("the server answers"))
    } else {
        None
    };
    let mut connections = JoinSet::new();
    for connection in 0..CONNECTIONS {
        // The remainder of the division is shared out among the first.
        let requests = (requests + connection) / CONNECTIONS;
        match channel.clone() {
            Some(channel) => connections.spawn(call_tonic(channel, requests)),
            None => connections.spawn(call_axum(address, requests)),
        };
    }
    let mut calls: Vec<_> = connections
        .join_all()
        .await
        .into_iter()
        .flat_map(|mut calls| calls.split_off(WARM_UP))
        .collect();
    assert_eq!(calls.len(), requests);
    let started = calls
        .iter()
        .map(|(started, _)| *started)
        .min()
        .expect("there are some");
    let ended = calls
        .iter()
        .map(|(started, time)| *started + *time)
        .max()
        .expect("there are some");
    let rate = requests as f64 / (ended - started).as_secs_f64();
    calls.sort_unstable_by_key(|(_, time)| *time);
    let [median, tail] =
        [50, 99].map(|percent| calls[requests * percent / 100].1.as_secs_f64() * 1e6);
    println!("{rate} {median} {tail}");
}

/// When each request was sent, and how long it took.
type Calls = Vec<(Instant, Duration)>;

/// Writes and reads bytes: parsing heads would cost the generator more than the server.
async fn call_axum(address: SocketAddr, requests: usize) -> Calls {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the server listens");
    stream.set_nodelay(true).expect("it is a TCP stream");
    let mut buffer = [0; 1024];
    let mut calls = Calls::with_capacity(WARM_UP + requests);
    for _ in 0..WARM_UP + requests {
        let started = Instant::now();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .expect("the server reads");
        let mut length = 0;
        while !buffer[..length].ends_with(b"\r\n\r\nhello") {
            let read = stream
                .read(&mut buffer[length..])
                .await
                .expect("the server answers");
            assert!(
                read > 0,
                "the server hung up after {:?}",
                String::from_utf8_lossy(&buffer[..length])
            );
            length += read;
        }
        calls.push((started, started.elapsed()));
    }
    calls
}

async fn call_tonic(channel: Channel, requests: usize) -> Calls {
    let mut client = HealthClient::new(channel);
    let mut calls = Calls::with_capacity(WARM_UP + requests);
    for _ in 0..WARM_UP + requests {
        let started = Instant::now();
        client
            .check(HealthCheckRequest::default())
            .await
            .expect("the server answers");
        calls.push((started, started.elapsed()));
    }
    calls
}
