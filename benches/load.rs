//! What the layer costs a real server: axum over HTTP/1.1 and tonic over HTTP/2, on loopback, with
//! a load generator in another process.
//!
//! - `cargo bench --bench load` compares the ways to leave a task. With `-- short` it takes fewer
//!   rounds.
//! - `cargo bench --bench load -- beside <program>` compares this build of the layer with another
//!   one: `<program>` is this bench, built with other features. The script `benches/features`
//!   builds both.
//!
//! The server has one thread, the generator another, and 16 requests are open at a time. Without
//! the layer, a task is spawned in the handler. The ways take turns. A ratio is the median over
//! pairs of neighbouring rounds, with its quartiles in brackets, so other load of the machine
//! affects both rounds of a pair. The CPU time of the server's thread does not contain the
//! generator.

#![expect(clippy::cast_precision_loss, reason = "the numbers are small")]

mod cpu_time;
mod figures;
mod plain_layer;
mod same_promises;

use std::{
    env,
    net::SocketAddr,
    path::Path,
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

use figures::{Figures, median, ratio};
use plain_layer::{PlainLayer, Tasks};
use same_promises::{SamePromises, Supervisor};

/// The server, and the requests of a round.
const SERVERS: [(&str, usize); 2] = [("axum", 20_000), ("tonic", 10_000)];
const WAYS: [&str; 4] = [WITHOUT, PLAIN, SAME_PROMISES, LAYER];
const WITHOUT: &str = "without";
const PLAIN: &str = "hand-written, plain";
const SAME_PROMISES: &str = "hand-written, same promises";
const LAYER: &str = "layer";
const CONNECTIONS: usize = 16;
/// Requests of each connection that count for nothing.
const WARM_UP: usize = 100;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["client", server, address, requests] => {
            let address = address.parse().expect("an address");
            let requests = requests.parse().expect("a number");
            runtime().block_on(generate(server, address, requests));
        }
        ["one", server, way, tasks, requests] => {
            let way = WAYS.into_iter().find(|known| *known == way);
            let tasks = tasks.parse().expect("a number");
            let requests = requests.parse().expect("a number");
            let numbers = round(server, way.expect("a way"), tasks, requests);
            println!("{}", numbers.map(|number| number.to_string()).join(" "));
        }
        ["beside", other, ..] => beside(other),
        _ => compare_ways(),
    }
}

/// The rounds, and what to divide the numbers of requests by.
fn effort() -> (usize, usize) {
    if figures::is_short() { (5, 4) } else { (81, 4) }
}

fn compare_ways() {
    let (rounds, divisor) = effort();
    let mut figures = Figures::of("load");
    let method = format!(
        "CPU time of the server and latencies in µs, medians of {rounds} rounds. The ratios compare with the hand-written layer \
         that makes the same promises."
    );
    figures.table(
        "load",
        &method,
        &[
            "server, tasks, way",
            "requests/s",
            "p50",
            "p99",
            "CPU",
            "requests/s, ratio",
            "p99, ratio",
            "CPU, ratio",
        ],
    );
    for (server, requests) in SERVERS {
        for tasks in [0, 1] {
            let mut measured = WAYS.map(|_| [const { Vec::new() }; 4]);
            for number in 0..rounds {
                for turn in 0..WAYS.len() {
                    // Each way is the first one, and the last one, equally often.
                    let which = (number + turn) % WAYS.len();
                    let numbers = round(server, WAYS[which], tasks, requests / divisor);
                    for (column, number) in measured[which].iter_mut().zip(numbers) {
                        column.push(number);
                    }
                }
            }
            let same = WAYS
                .iter()
                .position(|way| *way == SAME_PROMISES)
                .expect("a way");
            for (way, columns) in WAYS.into_iter().zip(&measured) {
                let middle = |column: usize| median(columns[column].iter().copied());
                let ratio = |column: usize| ratio(&columns[column], &measured[same][column]);
                figures.row(&[
                    format!("{server}, {tasks}, {way}"),
                    format!("{:.0}", middle(0)),
                    format!("{:.0}", middle(1)),
                    format!("{:.0}", middle(2)),
                    format!("{:.2}", middle(3)),
                    ratio(0),
                    ratio(2),
                    ratio(3),
                ]);
            }
        }
    }
    figures.save();
}

/// Compares this build of the layer with that of another program, for one request with one task.
fn beside(other: &str) {
    let this = env::current_exe().expect("this is a file");
    let programs = [Path::new(other), &this];
    let (rounds, divisor) = effort();
    let mut figures = Figures::of("features");
    let method = format!(
        "CPU time of the server in µs for one request with one task, medians of {rounds} pairs of rounds. No subscriber and no \
         recorder is installed."
    );
    let header = ["server", "without the features", "with", "ratio"];
    figures.table("features", &method, &header);
    for (server, requests) in SERVERS {
        let mut times = [const { Vec::new() }; 2];
        for number in 0..rounds {
            // Each program is the first one of every second pair.
            for which in [number % 2, (number + 1) % 2] {
                let output = std::process::Command::new(programs[which])
                    .args(["one", server, LAYER, "1", &(requests / divisor).to_string()])
                    .stderr(Stdio::inherit())
                    .output()
                    .expect("the program runs");
                let output = String::from_utf8(output.stdout).expect("it writes text");
                let cpu = output.split_whitespace().last().expect("four numbers");
                times[which].push(cpu.parse().expect("a number"));
            }
        }
        let [without, with] = &times;
        figures.row(&[
            server.to_owned(),
            format!("{:.2}", median(without.iter().copied())),
            format!("{:.2}", median(with.iter().copied())),
            ratio(with, without),
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

/// Requests per second, the median and the 99th percentile of their times, and the server's CPU
/// time for each.
fn round(server: &str, way: &'static str, tasks: usize, requests: usize) -> [f64; 4] {
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

/// Sends the requests, and prints how many there were in a second, and the median and 99th
/// percentile of their times.
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
