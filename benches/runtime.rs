//! What CPU-heavy tasks do to the latency of requests, on the runtime of the server and on a
//! separate runtime.
//!
//! Requests come over loopback at a fixed rate. Each is timed from the moment at which it was due,
//! so its time includes the wait for the request before it. The cases take turns of a few seconds,
//! in one process.

use std::{
    hint::black_box,
    io::{self, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};
use tower_background::{BackgroundLayer, BackgroundTasks, Supervisor};

const WORKERS: usize = 2;
const CONNECTIONS: u32 = 20;
/// How often each connection asks.
const EVERY: Duration = Duration::from_millis(200);
/// How much of a core's time each task takes when nothing else runs.
const HEAVY: Duration = Duration::from_millis(5);
const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: usize = 3;

/// One way of leaving work behind, and what the requests came to.
struct Case {
    name: &'static str,
    address: SocketAddr,
    supervisor: Supervisor,
    latencies: Vec<Duration>,
}

fn main() -> io::Result<()> {
    let (requests, tasks, client) = (
        workers("requests")?,
        workers("tasks")?,
        Builder::new_current_thread().enable_all().build()?,
    );
    let turns = turns_within(HEAVY);
    let mut cases = [
        Case::new("no tasks", &requests, Supervisor::new(), None)?,
        Case::new("same runtime", &requests, Supervisor::new(), Some(turns))?,
        Case::new(
            "separate runtime",
            &requests,
            Supervisor::builder()
                .runtime(tasks.handle().clone())
                .build(),
            Some(turns),
        )?,
    ];
    for case in &mut cases {
        client.block_on(case.load(ROUND / 4))?;
        case.latencies.clear();
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            client.block_on(case.load(ROUND))?;
        }
    }
    table(&mut cases)
}

fn workers(name: &str) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name(name)
        .enable_all()
        .build()
}

impl Case {
    fn new(
        name: &'static str,
        requests: &Runtime,
        supervisor: Supervisor,
        turns: Option<u64>,
    ) -> io::Result<Self> {
        let handler = async move |tasks: BackgroundTasks| {
            if let Some(turns) = turns {
                tasks.add(async move { burn(turns) });
            }
            "ok"
        };
        let app = Router::new()
            .route("/", get(handler))
            .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
        let listener = requests.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        requests.spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            name,
            address,
            supervisor,
            latencies: Vec::new(),
        })
    }

    /// Asks for a while, and waits for the tasks that this has left.
    async fn load(&mut self, time: Duration) -> io::Result<()> {
        let mut connections = JoinSet::new();
        for nth in 0..CONNECTIONS {
            let begin = Instant::now() + EVERY * nth / CONNECTIONS;
            connections.spawn(ask(self.address, begin, time));
        }
        while let Some(asked) = connections.join_next().await {
            self.latencies.extend(asked.expect("no client panics")?);
        }
        self.supervisor.idle().await;
        Ok(())
    }

    /// The latency that this share of the requests did not exceed, in milliseconds.
    fn quantile(&self, thousandths: usize) -> f64 {
        let index = (self.latencies.len() - 1) * thousandths / 1000;
        self.latencies[index].as_secs_f64() * 1000.0
    }
}

/// Sends a request on one connection each time that one is due, and returns how long after that the
/// answer came.
async fn ask(address: SocketAddr, begin: Instant, time: Duration) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut due = interval_at(begin.into(), EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut latencies = Vec::new();
    let (mut read, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let due = due.tick().await;
        if due.into_std().duration_since(begin) >= time {
            return Ok(latencies);
        }
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await?;
        read.clear();
        while !read.ends_with(b"\r\n\r\nok") {
            match stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => read.extend_from_slice(&buffer[..bytes]),
            }
        }
        latencies.push(due.elapsed());
    }
}

/// Keeps a core busy, as rendering or compressing would.
fn burn(turns: u64) {
    let mut value = 1u64;
    for turn in 0..turns {
        value = black_box(
            value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(turn),
        );
    }
}

/// How many turns an idle core makes in this time.
fn turns_within(time: Duration) -> u64 {
    const SAMPLE: u64 = 10_000_000;
    let fastest = (0..5)
        .map(|_| {
            let begin = Instant::now();
            burn(SAMPLE);
            begin.elapsed()
        })
        .min()
        .expect("there are samples");
    let turns = u128::from(SAMPLE) * time.as_nanos() / fastest.as_nanos();
    u64::try_from(turns).expect("it is a short time")
}

fn table(cases: &mut [Case]) -> io::Result<()> {
    for case in &mut *cases {
        case.latencies.sort_unstable();
    }
    let mut out = io::stdout().lock();
    let rate = f64::from(CONNECTIONS) / EVERY.as_secs_f64();
    writeln!(
        out,
        "{rate} requests/s, each with a task of {HEAVY:?}; {WORKERS} workers a runtime\n"
    )?;
    writeln!(
        out,
        "| tasks | requests | tasks run | p50 ms | p99 ms | max ms | p50 ratio | p99 ratio |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    let (p50, p99) = (cases[0].quantile(500), cases[0].quantile(990));
    for case in &*cases {
        writeln!(
            out,
            "| {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
            case.name,
            case.latencies.len(),
            case.supervisor.stats().succeeded,
            case.quantile(500),
            case.quantile(990),
            case.quantile(1000),
            case.quantile(500) / p50,
            case.quantile(990) / p99,
        )?;
    }
    Ok(())
}
