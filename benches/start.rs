//! When tasks start, relative to the socket's write of the last byte of their response, and how a
//! task that burns CPU changes the latency of its own response.
//!
//! `cargo bench --bench start`. The server has two workers. Its client is another process, which
//! sends one request after the other on one connection. `naive` spawns each task in the drop of the
//! body, and `layer` is this crate.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod plain_layer;

use std::{
    convert::Infallible,
    env,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::io::InspectWriter;
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt};

use plain_layer::{PlainLayer, Tasks};

const RESPONSES: usize = 2_000;
const BURNING: usize = 500;
/// Responses at the start of a connection that count for nothing.
const WARM_UP: usize = 100;
const BURN: Duration = Duration::from_millis(5);
/// How long the client waits before a request, so that the tasks of the last one are over.
const PAUSE: Duration = Duration::from_millis(25);

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [role, uri, protocol, responses, pause] = &arguments[..] {
        assert_eq!(role, "client");
        return client(
            &uri.parse().expect("a URI"),
            protocol,
            responses.parse().expect("a number"),
            pause == "pause",
        );
    }
    println!(
        "Times are the median and the 99th percentile, in µs: from the call of the service to the write of the last byte, as the"
    );
    println!("server sees it, and from the request to the last byte, as the client does.\n");
    println!(
        "| protocol | tasks | by | started before that write | written after | received after |\n|---|---|---|---|---|---|"
    );
    for (responses, burn) in [(RESPONSES, None), (BURNING, Some(BURN))] {
        for protocol in ["HTTP/1.1", "HTTP/2"] {
            for (way, tasks) in [
                ("layer", 0),
                ("naive", 1),
                ("layer", 1),
                ("naive", 3),
                ("layer", 3),
            ] {
                row(protocol, way, tasks, burn, responses);
            }
        }
    }
}

fn row(protocol: &str, way: &'static str, tasks: usize, burn: Option<Duration>, responses: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let log = Log::new(WARM_UP + responses);
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a free port");
    let uri = format!("http://{}/", listener.local_addr().expect("it is bound"));
    runtime.spawn(serve(listener, log.clone(), way, tasks, burn));

    let pause = if burn.is_some() { "pause" } else { "no pause" };
    let client = Command::new(env::current_exe().expect("this is a file"))
        .args(["client", &uri, protocol, &responses.to_string(), pause])
        .output()
        .expect("the client runs");
    let latencies = String::from_utf8(client.stdout).expect("it writes text");
    let latencies: Vec<_> = latencies.split_whitespace().collect();
    assert_eq!(
        latencies.len(),
        2,
        "{}",
        String::from_utf8_lossy(&client.stderr)
    );

    let share = log.started_before_written() as f64 * 100.0 / responses as f64;
    let written = percentiles(log.times_to_write());
    let tasks = match burn {
        None => tasks.to_string(),
        Some(_) if tasks == 0 => "0, with the pause".to_owned(),
        Some(_) => format!("{tasks}, each burns 5 ms"),
    };
    println!(
        "| {protocol} | {tasks} | {way} | {share:.2} % | {} / {} | {} / {} |",
        written[0], written[1], latencies[0], latencies[1]
    );
}

/// The median and the 99th percentile, in µs.
fn percentiles(mut times: Vec<Duration>) -> [u128; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times[times.len() * percent / 100].as_micros())
}

/// For each response, in ns: when the service was called, when the socket took the last byte, and
/// when the first task started.
#[derive(Clone)]
struct Log(Arc<(Instant, AtomicUsize, Vec<Times>)>);

#[derive(Default)]
struct Times {
    called: AtomicU64,
    written: AtomicU64,
    started: AtomicU64,
}

impl Log {
    fn new(responses: usize) -> Self {
        Self(Arc::new((
            Instant::now(),
            AtomicUsize::new(0),
            (0..=responses).map(|_| Times::default()).collect(),
        )))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.0.elapsed().as_nanos()).expect("centuries")
    }

    /// A request came. All later writes belong to its response, because the client waits for each
    /// whole response.
    fn request(&self) -> usize {
        let response = self.0.1.fetch_add(1, Relaxed) + 1;
        self.0.2[response].called.store(self.now(), Relaxed);
        response
    }

    fn written(&self) {
        self.0.2[self.0.1.load(Relaxed)]
            .written
            .store(self.now(), Relaxed);
    }

    fn started(&self, response: usize) {
        let _ = self.0.2[response]
            .started
            .compare_exchange(0, self.now(), Relaxed, Relaxed);
    }

    fn started_before_written(&self) -> usize {
        let early = |times: &&Times| {
            (1..times.written.load(Relaxed)).contains(&times.started.load(Relaxed))
        };
        self.0.2[1 + WARM_UP..].iter().filter(early).count()
    }

    fn times_to_write(&self) -> Vec<Duration> {
        let time = |times: &Times| times.written.load(Relaxed) - times.called.load(Relaxed);
        self.0.2[1 + WARM_UP..]
            .iter()
            .map(time)
            .map(Duration::from_nanos)
            .collect()
    }
}

async fn serve(
    listener: TcpListener,
    log: Log,
    way: &'static str,
    tasks: usize,
    burn: Option<Duration>,
) {
    let response = || {
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(
            Bytes::from_static(&[b'x'; 1024]),
        ))))
    };
    let task = move |log: &Log, response: usize| {
        let log = log.clone();
        async move {
            log.started(response);
            let started = Instant::now();
            while burn.is_some_and(|burn| started.elapsed() < burn) {}
        }
    };
    let layer = BackgroundLayer::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("it is a TCP stream");
        let written = log.clone();
        let io = InspectWriter::new(stream, move |_: &[u8]| written.written());
        let log = log.clone();
        if way == "layer" {
            let service = layer.layer(service_fn(move |request: Request<Incoming>| {
                let number = log.request();
                let list = request.background_tasks().expect("the layer is there");
                (0..tasks).for_each(|_| list.add(task(&log, number)));
                response()
            }));
            connection(io, service);
        } else {
            let service = PlainLayer(service_fn(move |request: Request<Incoming>| {
                let number = log.request();
                let list = request
                    .extensions()
                    .get::<Tasks>()
                    .expect("the layer is there");
                (0..tasks).for_each(|_| list.add(task(&log, number)));
                response()
            }));
            connection(io, service);
        }
    }
}

fn connection<I, S, B>(io: I, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let service = TowerToHyperService::new(service);
    tokio::spawn(async move {
        let server = auto::Builder::new(TokioExecutor::new());
        // How the connection ends is the client's affair.
        let _ = server.serve_connection(TokioIo::new(io), service).await;
    });
}

/// Sends the requests, and prints the median and the 99th percentile of the time to the last byte,
/// in µs.
fn client(uri: &Uri, protocol: &str, responses: usize, pause: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let latencies = runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(protocol == "HTTP/2")
            .build_http::<Empty<Bytes>>();
        let mut latencies = Vec::with_capacity(WARM_UP + responses);
        for _ in 0..WARM_UP + responses {
            if pause {
                tokio::time::sleep(PAUSE).await;
            }
            let started = Instant::now();
            let response = client.get(uri.clone()).await.expect("the server answers");
            let body = response
                .into_body()
                .collect()
                .await
                .expect("the body comes")
                .to_bytes();
            latencies.push(started.elapsed());
            assert_eq!(body.len(), 1024);
        }
        latencies.split_off(WARM_UP)
    });
    let [median, tail] = percentiles(latencies);
    println!("{median} {tail}");
}
