//! axum, tonic and hyper as servers, also under load: no task starts before the socket took the
//! last byte of its response.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, extract::ConnectInfo, routing::get, serve::Listener};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    transport::{Endpoint, server::Connected},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower::{
    Layer, ServiceBuilder, service_fn,
    util::{AndThenLayer, MapRequestLayer},
};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, EndKind, StartOn, Supervisor, Task, When,
    middleware::ResponseBody,
    sent::{self, SentLayer, SentStream},
};
use tower_http::compression::CompressionLayer;

use super::tracked::last_byte;
use crate::common::{
    Multiplexed, NUMBERED, Probed, Raw, Script, Server, Step, Taken, Witness, numbered, probed,
    rest, settle, soon, unreleased_data,
};

const LARGE: usize = 16 << 20;

/// Accepts tracked connections.
fn tracked(listener: TcpListener) -> impl Stream<Item = io::Result<SentStream<TcpStream>>> {
    TcpListenerStream::new(listener).map(|stream| stream.map(SentStream::new))
}

/// Serves the health service with tonic, below a layer that lets it find its connections.
async fn serve_health(supervisor: Supervisor) -> Server {
    let witness = Witness::new();
    let router = tonic::transport::Server::builder()
        .layer(SentLayer::new())
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(Watched(witness.clone())));
    Server::run(supervisor, witness, |listener| {
        router.serve_with_incoming(tracked(listener))
    })
    .await
}

#[tokio::test]
async fn axum_serve() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let large = move |tasks: BackgroundTasks| {
        watching.watch(&tasks);
        std::future::ready(vec![b'.'; LARGE])
    };
    let app = Router::new()
        .route("/", get(large))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let server = Server::run(supervisor, witness, |listener| sent::serve(listener, app)).await;

    for leaves in [false, true] {
        let mut client = Raw::narrow(server.address).await;
        client.get_last("/").await;
        client.until("\r\n\r\n").await;
        settle().await;
        assert_eq!(server.supervisor.stats().deferred, 1);
        let end = if leaves {
            client.reset();
            EndKind::Interrupted
        } else {
            assert_eq!(client.rest().await.len(), LARGE);
            EndKind::Complete
        };
        assert_eq!(server.witness.next().await.end.kind(), end);
        soon(server.supervisor.idle()).await;
    }
}

/// axum replaces the body of an answer to `HEAD` outside of its layers. Compression replaces other
/// bodies.
#[tokio::test]
async fn axum_serve_with_replaced_bodies() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let answer = move |tasks: BackgroundTasks| {
        watching.watch(&tasks);
        std::future::ready("hello".repeat(100))
    };
    let app = Router::new()
        .route("/", get(answer))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let app = app.layer(CompressionLayer::new());
    let server = Server::run(supervisor, witness, |listener| sent::serve(listener, app)).await;

    let mut one = Raw::connect(server.address).await;
    let mut many = Multiplexed::with_window(&server, 1).await;
    for method in ["HEAD", "GET"] {
        one.send(format!(
            "{method} / HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n"
        ))
        .await;
        assert_eq!(server.witness.next().await.end.kind(), EndKind::Complete);
    }
    let (response, _) = many.send(Method::HEAD, "/").await;
    soon(response).await.expect("there is a head");
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Complete);

    let (response, _) = many.ask("/", "accept-encoding", "gzip").await;
    let mut response = soon(response).await.expect("there is a head");
    assert!(
        soon(response.body_mut().data())
            .await
            .expect("there is more")
            .is_ok()
    );
    settle().await;
    assert_eq!(server.supervisor.stats().deferred, 1);
    many.set_window(1 << 20);
    rest(response.body_mut())
        .await
        .expect("the response is whole");
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Complete);
}

#[tokio::test]
async fn axum_serve_passes_the_address_of_the_client() {
    let supervisor = last_byte();
    let answer = |ConnectInfo(client): ConnectInfo<SocketAddr>, tasks: BackgroundTasks| {
        tasks.add(async {});
        std::future::ready(client.to_string())
    };
    let app = Router::new()
        .route("/", get(answer))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let serve = |listener| sent::serve(listener, app);
    let server = Server::run(supervisor, Witness::new(), serve).await;

    let stream = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let client = stream.local_addr().expect("it is connected");
    let mut stream = stream;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .expect("the server reads");
    let mut read = String::new();
    soon(stream.read_to_string(&mut read))
        .await
        .expect("the server closes");
    assert!(read.ends_with(&format!("\r\n\r\n{client}")), "{read:?}");
    soon(server.supervisor.idle()).await;
    assert_eq!(server.supervisor.stats().succeeded, 1);
}

/// A listener with an address type that says more than the address.
struct DetailedListener(TcpListener);

#[derive(Debug, Clone)]
#[expect(dead_code, reason = "the test prints it")]
struct Details {
    client: SocketAddr,
    no_delay: bool,
}

impl Listener for DetailedListener {
    type Io = TcpStream;
    type Addr = Details;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, client) = Listener::accept(&mut self.0).await;
        let no_delay = stream.nodelay().expect("it is a TCP stream");
        (stream, Details { client, no_delay })
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Details {
            client: self.0.local_addr()?,
            no_delay: false,
        })
    }
}

#[tokio::test]
async fn axum_serve_passes_the_address_type_of_the_listener() {
    let supervisor = last_byte();
    let answer = |ConnectInfo(answer): ConnectInfo<Details>, tasks: BackgroundTasks| {
        tasks.add(async {});
        std::future::ready(format!("{answer:?}"))
    };
    let app = Router::new()
        .route("/", get(answer))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let app = app.into_make_service_with_connect_info::<Details>();
    let serve = |listener| sent::serve(DetailedListener(listener), app);
    let server = Server::run(supervisor, Witness::new(), serve).await;
    let mut client = Raw::connect(server.address).await;
    client.get_last("/").await;
    assert!(client.rest().await.ends_with("no_delay: false }"));
    soon(server.supervisor.idle()).await;
}

struct Watched(Witness);

#[tonic::async_trait]
impl Health for Watched {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        assert!(
            request.remote_addr().is_some(),
            "the layer passes the address of the client on"
        );
        self.0.watch(&request.background_tasks()?);
        if request.get_ref().service == "mail" {
            return Err(Status::not_found("unknown service"));
        }
        Ok(tonic::Response::new(HealthCheckResponse { status: 1 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        self.0.watch(&request.background_tasks()?);
        let message = std::future::ready(Ok(HealthCheckResponse { status: 1 }));
        Ok(tonic::Response::new(Box::pin(futures_util::stream::once(
            message,
        ))))
    }
}

/// Reads a stream to its end, and checks how many messages it has.
async fn assert_messages(mut stream: tonic::Streaming<HealthCheckResponse>, count: usize) {
    let mut messages = 0;
    while soon(stream.message())
        .await
        .expect("the stream does not fail")
        .is_some()
    {
        messages += 1;
    }
    assert_eq!(messages, count);
}

#[tokio::test]
async fn tonic_serve_with_incoming() {
    let server = serve_health(last_byte()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address))
        .expect("an address")
        .initial_stream_window_size(1);
    let mut client = HealthClient::new(soon(endpoint.connect()).await.expect("the server listens"));
    soon(client.check(HealthCheckRequest::default()))
        .await
        .expect("it is healthy");
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.grpc_status()),
        (EndKind::Complete, Some(0))
    );
    soon(server.supervisor.idle()).await;

    // The client does not read, so the server keeps all but one byte of the message.
    let stalled = soon(client.watch(HealthCheckRequest::default()))
        .await
        .expect("there is a head")
        .into_inner();
    settle().await;
    assert_eq!(server.supervisor.stats().deferred, 1);
    assert_messages(stalled, 1).await;
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.grpc_status()),
        (EndKind::Complete, Some(0))
    );
    soon(server.supervisor.idle()).await;

    // The client first resets a stream, and then closes the connection.
    let gone = soon(client.watch(HealthCheckRequest::default()))
        .await
        .expect("there is a head");
    settle().await;
    drop(gone);
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Interrupted);
    let gone = soon(client.watch(HealthCheckRequest::default()))
        .await
        .expect("there is a head");
    settle().await;
    drop((gone, client));
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Interrupted);
}

#[tokio::test]
async fn tonic_with_a_window_that_opens_byte_by_byte() {
    for (start_on, early) in [(StartOn::EndOfStream, true), (StartOn::LastByteSent, false)] {
        let supervisor = Supervisor::builder().start_on(start_on).build();
        let server = serve_health(supervisor).await;
        let mut client = Multiplexed::with_window(&server, 0).await;
        let mut response = client.call("/grpc.health.v1.Health/Check", &[0; 5]).await;
        // The message has 2 bytes, and its frame has 5 bytes more.
        for window in 1..=7 {
            settle().await;
            // With the second window the server takes the whole message, and polls the trailers.
            let waits = !early || window == 1;
            assert_eq!(
                server.supervisor.stats().deferred,
                u64::from(waits),
                "{start_on:?}, window of {window}"
            );
            client.set_window(window);
            assert_eq!(unreleased_data(response.body_mut()).await.len(), 1);
        }
        let trailers = soon(response.body_mut().trailers())
            .await
            .expect("the response is whole")
            .expect("there are trailers");
        assert_eq!(trailers["grpc-status"], "0");
        let end = server.witness.next().await.end;
        assert_eq!(
            (end.kind(), end.bytes_sent()),
            (EndKind::Complete, (!early).then_some(7))
        );
    }
}

/// Without `SentLayer` a request does not find its connection.
#[tokio::test]
async fn tonic_without_sent_layer_is_not_tracked() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let router = tonic::transport::Server::builder()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(Watched(witness.clone())));
    let serve = |listener| router.serve_with_incoming(tracked(listener));
    let server = Server::run(supervisor, witness, serve).await;

    let mut client = Multiplexed::connect(&server).await;
    client.call("/grpc.health.v1.Health/Watch", &[0; 5]).await;
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.bytes(), end.bytes_sent()),
        (EndKind::Complete, 7, None)
    );
}

/// A layer outside buffers all of a body, and passes a copy on.
#[tokio::test]
async fn tonic_with_a_layer_that_buffers() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let copied = |(name, value): (&HeaderName, &HeaderValue)| {
        (
            name.clone(),
            HeaderValue::from_bytes(value.as_bytes()).expect("it is one"),
        )
    };
    let buffering = AndThenLayer::new(async move |response: Response<_>| {
        let (parts, body) = response.into_parts();
        let body: Collected<Bytes> = ResponseBody::<tonic::body::Body>::collect(body)
            .await
            .expect("the stream does not fail");
        // The bytes are copied, so that no guard passes.
        let trailers = body
            .trailers()
            .map(|trailers| Step::Trailers(trailers.iter().map(copied).collect()));
        let data = Some(Bytes::copy_from_slice(&body.to_bytes()))
            .filter(|data| !data.is_empty())
            .map(Step::data);
        Ok::<_, Infallible>(Response::from_parts(
            parts,
            Script::new(data.into_iter().chain(trailers)).tells_end(),
        ))
    });
    let router = tonic::transport::Server::builder()
        .layer(SentLayer::new())
        .layer(buffering)
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(Watched(witness.clone())));
    let serve = |listener| router.serve_with_incoming(tracked(listener));
    let server = Server::run(supervisor, witness, serve).await;

    for leaves in [false, true] {
        let mut client = Multiplexed::with_window(&server, 0).await;
        let mut response = client.call("/grpc.health.v1.Health/Check", &[0; 5]).await;
        for window in 1..=7 {
            settle().await;
            assert_eq!(server.supervisor.stats().deferred, 1, "window of {window}");
            if leaves {
                break;
            }
            client.set_window(window);
            assert_eq!(unreleased_data(response.body_mut()).await.len(), 1);
        }
        let end = if leaves {
            client.leave().await;
            EndKind::Interrupted
        } else {
            let trailers = soon(response.body_mut().trailers())
                .await
                .expect("the response is whole")
                .expect("there are trailers");
            assert_eq!(trailers["grpc-status"], "0");
            EndKind::Complete
        };
        assert_eq!(server.witness.next().await.end.kind(), end);
        soon(server.supervisor.idle()).await;
    }

    // An answer without a body is only a head.
    let mut client = Multiplexed::connect(&server).await;
    let response = client
        .call("/grpc.health.v1.Health/Check", b"\0\0\0\0\x06\n\x04mail")
        .await;
    assert_eq!(response.headers()["grpc-status"], "5");
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.grpc_status(), end.bytes_sent()),
        (EndKind::Complete, Some(5), Some(0))
    );
}

/// Serves tracked connections, and records what their sockets take.
///
/// Each request adds a task. When it starts, it calls `show` with the records, and whether the
/// socket took all of its own response.
async fn watched<F>(supervisor: Supervisor, show: F) -> Server
where
    F: Fn(&Arc<Taken>, bool) + Clone + Send + Sync + 'static,
{
    watched_by(supervisor, auto::Builder::new(TokioExecutor::new()), show).await
}

async fn watched_by<F>(
    supervisor: Supervisor,
    builder: auto::Builder<TokioExecutor>,
    show: F,
) -> Server
where
    F: Fn(&Arc<Taken>, bool) + Clone + Send + Sync + 'static,
{
    let numbers = Arc::new(AtomicUsize::new(0));
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            let taken = request
                .extensions()
                .get::<Arc<Taken>>()
                .expect("the connection is probed")
                .clone();
            let show = show.clone();
            let tasks = request.background_tasks().expect("the layer is there");
            let number = numbers.fetch_add(1, SeqCst);
            tasks.add(
                Task::new(async move { show(&taken, taken.has(number)) }).when(When::Complete),
            );
            let data = Step::data(numbered(number));
            let body = match request.uri().path() {
                "/full" => Script::new([data]).sized(NUMBERED as u64).tells_end(),
                "/stream" => Script::new([data]),
                "/trailers" => Script::new([data, Step::trailer("grpc-status", "0")]),
                _ => unreachable!("the tests request no other path"),
            };
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        },
    ));
    Server::each(supervisor, Witness::new(), move |stream| {
        let taken = Arc::<Taken>::default();
        let stream = SentStream::new(probed(stream, taken.clone()));
        let service = ServiceBuilder::new()
            .layer(stream.connection())
            .layer(MapRequestLayer::new(
                move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(taken.clone());
                    request
                },
            ))
            .service(service.clone());
        let builder = builder.clone();
        async move {
            // The client of the test checks how a connection ends.
            let service = TowerToHyperService::new(service);
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

fn http2_client() -> reqwest::Client {
    reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("a client")
}

/// Requests a path of `watched`, and reads the whole response.
async fn get_numbered(client: &reqwest::Client, address: SocketAddr, path: &str) {
    let response = soon(client.get(format!("http://{address}{path}")).send())
        .await
        .expect("the server answers");
    let body = soon(response.bytes()).await.expect("the response is whole");
    assert_eq!(body.len(), NUMBERED);
}

/// Waits for all tasks, and checks that 10,000 succeeded and that there were no others.
async fn assert_ten_thousand(server: &Server) {
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!(
        (stats.succeeded, stats.added()),
        (10_000, 10_000),
        "{stats:?}"
    );
}

/// Sends 10,000 requests, `at_once` at a time, and returns how many tasks started early.
async fn load(client: reqwest::Client, paths: &'static [&str], at_once: usize) -> usize {
    let early = Arc::new(AtomicUsize::new(0));
    let seen = early.clone();
    let server = watched(last_byte(), move |_, whole| {
        seen.fetch_add(usize::from(!whole), SeqCst);
    })
    .await;
    let mut requests = JoinSet::new();
    for nth in 0..at_once {
        let (client, address) = (client.clone(), server.address);
        requests.spawn(async move {
            for request in 0..10_000 / at_once {
                let path = paths[(nth + request) % paths.len()];
                get_numbered(&client, address, path).await;
            }
        });
    }
    soon(requests.join_all()).await;
    assert_ten_thousand(&server).await;
    early.load(SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_over_http1() {
    assert_eq!(
        load(reqwest::Client::new(), &["/full", "/stream"], 8).await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_over_http2() {
    assert_eq!(
        load(http2_client(), &["/full", "/stream", "/trailers"], 20).await,
        0
    );
}

impl Connected for Probed {
    type ConnectInfo = Arc<Taken>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.taken.clone()
    }
}

/// Numbers its answers. Each request adds a task that checks whether the socket took all of its own
/// response.
#[derive(Clone, Default)]
struct Numbered {
    numbers: Arc<AtomicUsize>,
    early: Arc<AtomicUsize>,
}

impl Numbered {
    fn answer(
        &self,
        request: &tonic::Request<HealthCheckRequest>,
    ) -> Result<HealthCheckResponse, Status> {
        // A proto3 message leaves out zeros, so the numbers start at one.
        let (number, early) = (1 + self.numbers.fetch_add(1, SeqCst), self.early.clone());
        let taken = request
            .extensions()
            .get::<Arc<Taken>>()
            .expect("the connection is probed")
            .clone();
        let look = async move {
            early.fetch_add(usize::from(!taken.has(number)), SeqCst);
        };
        request
            .background_tasks()?
            .add(Task::new(look).when(When::Complete));
        Ok(HealthCheckResponse {
            status: number.try_into().expect("the number is small"),
        })
    }
}

/// The number of messages in a stream.
const MESSAGES: usize = 3;

#[tonic::async_trait]
impl Health for Numbered {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.answer(&request).map(tonic::Response::new)
    }

    type WatchStream = futures_util::stream::Iter<
        std::array::IntoIter<Result<HealthCheckResponse, Status>, MESSAGES>,
    >;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let message = self.answer(&request)?;
        Ok(tonic::Response::new(futures_util::stream::iter(
            [message; MESSAGES].map(Ok),
        )))
    }
}

/// Unary calls and server streams, over 4 connections with 25 streams each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_over_grpc() {
    let (supervisor, service) = (last_byte(), Numbered::default());
    let probe = |stream| SentStream::new(probed(stream, Arc::default()));
    let router = tonic::transport::Server::builder()
        .layer(SentLayer::new())
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .add_service(HealthServer::new(service.clone()));
    let server = Server::run(supervisor, Witness::new(), |listener| {
        router.serve_with_incoming(
            TcpListenerStream::new(listener).map(move |stream| stream.map(probe)),
        )
    })
    .await;
    let address = server.address;

    let mut streams = JoinSet::new();
    for _ in 0..4 {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let client = HealthClient::new(soon(endpoint.connect()).await.expect("the server listens"));
        for nth in 0..25 {
            let mut client = client.clone();
            streams.spawn(async move {
                for request in 0..100 {
                    let asked = HealthCheckRequest::default();
                    if (nth + request) % 2 == 0 {
                        soon(client.check(asked)).await.expect("the server answers");
                        continue;
                    }
                    let messages = soon(client.watch(asked))
                        .await
                        .expect("the server answers")
                        .into_inner();
                    assert_messages(messages, MESSAGES).await;
                }
            });
        }
    }
    streams.join_all().await;
    assert_ten_thousand(&server).await;
    assert_eq!(service.early.load(SeqCst), 0);
}

/// Several requests in one segment. One server writes each answer alone, the other several at once.
#[tokio::test]
async fn pipelined_requests() {
    for together in [false, true] {
        let early = Arc::new(AtomicUsize::new(0));
        let seen = early.clone();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().pipeline_flush(together);
        let server = watched_by(last_byte(), builder, move |_, whole| {
            seen.fetch_add(usize::from(!whole), SeqCst);
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        for _ in 0..50 {
            let paths = ["/full", "/stream", "/full"];
            let requests =
                paths.map(|path| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
            client.send(requests.concat()).await;
            for _ in paths {
                let head = client.until("\r\n\r\n").await;
                let end = if head.contains("chunked") {
                    "\r\n0\r\n\r\n"
                } else {
                    "hello"
                };
                client.until(end).await;
            }
        }
        drop(client);
        soon(server.supervisor.idle()).await;
        assert_eq!(
            (server.supervisor.stats().succeeded, early.load(SeqCst)),
            (150, 0),
            "together: {together}"
        );
    }
}

#[tokio::test]
async fn a_guard_adds_no_frame() {
    for start_on in [StartOn::EndOfStream, StartOn::LastByteSent] {
        let shown = Arc::new(Mutex::new(None));
        let show = shown.clone();
        let server = watched(
            Supervisor::builder().start_on(start_on).build(),
            move |taken, _| {
                show.lock().unwrap().replace(taken.clone());
            },
        )
        .await;
        let client = http2_client();
        for path in ["/full", "/stream", "/trailers"] {
            get_numbered(&client, server.address, path).await;
        }
        soon(server.supervisor.idle()).await;
        let taken = shown.lock().unwrap().take().expect("a task has run");
        assert_eq!(
            taken.data(),
            [
                (true, NUMBERED),
                (false, NUMBERED),
                (true, 0),
                (false, NUMBERED)
            ],
            "{start_on:?}"
        );
    }
}
