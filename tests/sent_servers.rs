//! `Release::Sent` on the servers that people use, and under load: no task starts before the socket took the last byte.

mod support;

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
use support::{Multiplexed, NUMBERED, Probed, Raw, Script, Server, Step, Taken, Witness, numbered, probed, settle, soon};
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
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, End, Release, ResponseBody, SentLayer, SentStream, Supervisor, Task,
    When,
};
use tower_http::compression::CompressionLayer;

const LARGE: usize = 16 << 20;

fn sent() -> Supervisor {
    Supervisor::builder().release(Release::Sent).build()
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

#[tokio::test]
async fn axum_serve() {
    let (listener, supervisor, witness) = (listen().await, sent(), Witness::new());
    let address = listener.local_addr().expect("it is bound");
    let watching = witness.clone();
    let large = move |tasks: BackgroundTasks| {
        watching.watch(&tasks);
        std::future::ready(vec![b'.'; LARGE])
    };
    let app = Router::new().route("/", get(large)).layer(BackgroundLayer::with(supervisor.clone()));
    let accept = tokio::spawn(async move {
        tower_background::serve(listener, app).await.expect("it serves");
    });
    let server = Server::running(address, accept, supervisor, witness);

    for leaves in [false, true] {
        let mut client = Raw::narrow(server.address).await;
        client.send("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        client.until("\r\n\r\n").await;
        settle().await;
        assert_eq!(server.supervisor.stats().collected, 1);
        let end = if leaves {
            client.reset();
            End::Aborted
        } else {
            assert_eq!(client.rest().await.len(), LARGE);
            End::Complete
        };
        assert_eq!(server.witness.next().await.end.kind(), end);
        soon(server.supervisor.idle()).await;
    }
}

/// axum answers `HEAD` by a body of its own, outside of its layers; its compression changes all others.
#[tokio::test]
async fn axum_with_bodies_of_its_own() {
    let (listener, supervisor, witness) = (listen().await, sent(), Witness::new());
    let address = listener.local_addr().expect("it is bound");
    let watching = witness.clone();
    let answer = move |tasks: BackgroundTasks| {
        watching.watch(&tasks);
        std::future::ready("hello".repeat(100))
    };
    let app = Router::new().route("/", get(answer)).layer(BackgroundLayer::with(supervisor.clone()));
    let app = app.layer(CompressionLayer::new());
    let accept = tokio::spawn(async move {
        tower_background::serve(listener, app).await.expect("it serves");
    });
    let server = Server::running(address, accept, supervisor, witness);

    let mut one = Raw::connect(server.address).await;
    let builder = h2::client::Builder::new().initial_window_size(1).to_owned();
    let mut many = Multiplexed::with(&server, &builder).await;
    for method in ["HEAD", "GET"] {
        one.send(format!("{method} / HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n")).await;
        assert_eq!(server.witness.next().await.end.kind(), End::Complete);
    }
    let (response, _) = many.send(Method::HEAD, "/").await;
    soon(response).await.expect("there is a head");
    assert_eq!(server.witness.next().await.end.kind(), End::Complete);

    let (response, _) = many.ask("/", "accept-encoding", "gzip").await;
    let mut response = soon(response).await.expect("there is a head");
    assert!(soon(response.body_mut().data()).await.expect("there is more").is_ok());
    settle().await;
    assert_eq!(server.supervisor.stats().collected, 1);
    many.set_window(1 << 20);
    support::rest(response.body_mut()).await.expect("it is whole");
    assert_eq!(server.witness.next().await.end.kind(), End::Complete);
}

#[tokio::test]
async fn axum_tells_a_handler_its_client() {
    let (listener, supervisor) = (listen().await, sent());
    let address = listener.local_addr().expect("it is bound");
    let told = |ConnectInfo(client): ConnectInfo<SocketAddr>, tasks: BackgroundTasks| {
        tasks.add(async {});
        std::future::ready(client.to_string())
    };
    let app = Router::new().route("/", get(told)).layer(BackgroundLayer::with(supervisor.clone()));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let accept = tokio::spawn(async move {
        tower_background::serve(listener, app).await.expect("it serves");
    });
    let server = Server::running(address, accept, supervisor, Witness::new());

    let stream = TcpStream::connect(server.address).await.expect("the server listens");
    let client = stream.local_addr().expect("it is connected");
    let mut stream = stream;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("the server reads");
    let mut read = String::new();
    soon(stream.read_to_string(&mut read)).await.expect("the server closes");
    assert!(read.ends_with(&format!("\r\n\r\n{client}")), "{read:?}");
    soon(server.supervisor.idle()).await;
    assert_eq!(server.supervisor.stats().succeeded, 1);
}

/// A listener whose address is what its handlers are to know of a connection.
struct Telling(TcpListener);

#[derive(Debug, Clone)]
#[expect(dead_code, reason = "it is only printed")]
struct Told {
    client: SocketAddr,
    no_delay: bool,
}

impl Listener for Telling {
    type Io = TcpStream;
    type Addr = Told;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, client) = Listener::accept(&mut self.0).await;
        let no_delay = stream.nodelay().expect("it is a TCP stream");
        (stream, Told { client, no_delay })
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Told { client: self.0.local_addr()?, no_delay: false })
    }
}

#[tokio::test]
async fn axum_tells_a_handler_what_its_listener_does() {
    let (listener, supervisor) = (listen().await, sent());
    let address = listener.local_addr().expect("it is bound");
    let told = |ConnectInfo(told): ConnectInfo<Told>, tasks: BackgroundTasks| {
        tasks.add(async {});
        std::future::ready(format!("{told:?}"))
    };
    let app = Router::new().route("/", get(told)).layer(BackgroundLayer::with(supervisor.clone()));
    let serving = tower_background::serve(Telling(listener), app.into_make_service_with_connect_info::<Told>());
    let accept = tokio::spawn(async move { serving.await.expect("it serves") });
    let server = Server::running(address, accept, supervisor, Witness::new());
    let mut client = Raw::connect(server.address).await;
    client.send("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(client.rest().await.ends_with("no_delay: false }"));
    soon(server.supervisor.idle()).await;
}

struct Watched(Witness);

#[tonic::async_trait]
impl Health for Watched {
    async fn check(&self, request: tonic::Request<HealthCheckRequest>) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        assert!(request.remote_addr().is_some(), "the wrapped stream tells its client's address");
        self.0.watch(&request.background_tasks()?);
        if request.get_ref().service == "mail" {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(tonic::Response::new(HealthCheckResponse { status: 1 }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: tonic::Request<HealthCheckRequest>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        self.0.watch(&request.background_tasks()?);
        let message = std::future::ready(Ok(HealthCheckResponse { status: 1 }));
        Ok(tonic::Response::new(Box::pin(futures_util::stream::once(message))))
    }
}

#[tokio::test]
async fn tonic_serve_with_incoming() {
    let (listener, supervisor, witness) = (listen().await, sent(), Witness::new());
    let address = listener.local_addr().expect("it is bound");
    let incoming = TcpListenerStream::new(listener).map(|stream| stream.map(SentStream::new));
    let serving = tonic::transport::Server::builder()
        .layer(BackgroundLayer::with(supervisor.clone()))
        .add_service(HealthServer::new(Watched(witness.clone())))
        .serve_with_incoming(incoming);
    let accept = tokio::spawn(async move { serving.await.expect("it serves") });
    let server = Server::running(address, accept, supervisor, witness);

    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").initial_stream_window_size(1);
    let mut client = HealthClient::new(soon(endpoint.connect()).await.expect("the server listens"));
    soon(client.check(HealthCheckRequest::default())).await.expect("it is healthy");
    let end = server.witness.next().await.end;
    assert_eq!((end.kind(), end.grpc_status()), (End::Complete, Some(0)));
    soon(server.supervisor.idle()).await;

    // Nobody reads, so that all but a byte of the message stays with the server.
    let mut stalled = soon(client.watch(HealthCheckRequest::default())).await.expect("there is a head").into_inner();
    settle().await;
    assert_eq!(server.supervisor.stats().collected, 1);
    assert!(soon(stalled.message()).await.expect("there is a message").is_some());
    assert!(soon(stalled.message()).await.expect("it ends well").is_none());
    let end = server.witness.next().await.end;
    assert_eq!((end.kind(), end.grpc_status()), (End::Complete, Some(0)));
    soon(server.supervisor.idle()).await;

    // The first is a reset of the stream, the second the end of the connection.
    let gone = soon(client.watch(HealthCheckRequest::default())).await.expect("there is a head");
    settle().await;
    drop(gone);
    assert_eq!(server.witness.next().await.end.kind(), End::Aborted);
    let gone = soon(client.watch(HealthCheckRequest::default())).await.expect("there is a head");
    settle().await;
    drop((gone, client));
    assert_eq!(server.witness.next().await.end.kind(), End::Aborted);
}

/// A gRPC client whose window opens byte by byte.
#[tokio::test]
async fn tonic_with_a_window_that_opens_byte_by_byte() {
    for (release, early) in [(Release::EndOfStream, true), (Release::Sent, false)] {
        let (listener, witness) = (listen().await, Witness::new());
        let supervisor = Supervisor::builder().release(release).build();
        let address = listener.local_addr().expect("it is bound");
        let incoming = TcpListenerStream::new(listener).map(|stream| stream.map(SentStream::new));
        let serving = tonic::transport::Server::builder()
            .layer(BackgroundLayer::with(supervisor.clone()))
            .add_service(HealthServer::new(Watched(witness.clone())))
            .serve_with_incoming(incoming);
        let accept = tokio::spawn(async move { serving.await.expect("it serves") });
        let server = Server::running(address, accept, supervisor, witness);

        let builder = h2::client::Builder::new().initial_window_size(0).to_owned();
        let mut client = Multiplexed::with(&server, &builder).await;
        let mut response = client.call("/grpc.health.v1.Health/Check", &[0; 5]).await;
        // A frame of 5 bytes, and a message of 2.
        for window in 1..=7 {
            settle().await;
            // With the first byte of the message the server has all of it, and asks for the trailers.
            let waits = !early || window == 1;
            assert_eq!(server.supervisor.stats().collected, u64::from(waits), "{release:?}, window of {window}");
            client.set_window(window);
            assert_eq!(soon(response.body_mut().data()).await.expect("there is more").expect("the server sends").len(), 1);
        }
        let trailers = soon(response.body_mut().trailers()).await.expect("it is whole").expect("there are trailers");
        assert_eq!(trailers["grpc-status"], "0");
        let end = server.witness.next().await.end;
        assert_eq!((end.kind(), end.bytes_sent()), (End::Complete, (!early).then_some(7)));
    }
}

/// A layer outside that has all of a body before its response goes on, and makes another of it.
#[tokio::test]
async fn tonic_with_a_layer_that_buffers() {
    let (listener, supervisor, witness) = (listen().await, sent(), Witness::new());
    let address = listener.local_addr().expect("it is bound");
    let copied = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.clone(), HeaderValue::from_bytes(value.as_bytes()).expect("it is one"))
    };
    let buffering = AndThenLayer::new(async move |response: Response<_>| {
        let (parts, body) = response.into_parts();
        let body: Collected<Bytes> = ResponseBody::<tonic::body::Body>::collect(body).await.expect("it does not fail");
        // By its bytes, so that no mark passes.
        let trailers = body.trailers().map(|trailers| Step::Trailers(trailers.iter().map(copied).collect()));
        let data = Some(Bytes::copy_from_slice(&body.to_bytes())).filter(|data| !data.is_empty()).map(Step::data);
        Ok::<_, Infallible>(Response::from_parts(parts, Script::new(data.into_iter().chain(trailers)).tells_end()))
    });
    let serving = tonic::transport::Server::builder()
        .layer(SentLayer::new())
        .layer(buffering)
        .layer(BackgroundLayer::with(supervisor.clone()))
        .add_service(HealthServer::new(Watched(witness.clone())))
        .serve_with_incoming(TcpListenerStream::new(listener).map(|stream| stream.map(SentStream::new)));
    let accept = tokio::spawn(async move { serving.await.expect("it serves") });
    let server = Server::running(address, accept, supervisor, witness);

    for leaves in [false, true] {
        let builder = h2::client::Builder::new().initial_window_size(0).to_owned();
        let mut client = Multiplexed::with(&server, &builder).await;
        let mut response = client.call("/grpc.health.v1.Health/Check", &[0; 5]).await;
        for window in 1..=7 {
            settle().await;
            assert_eq!(server.supervisor.stats().collected, 1, "window of {window}");
            if leaves {
                break;
            }
            client.set_window(window);
            assert_eq!(soon(response.body_mut().data()).await.expect("there is more").expect("the server sends").len(), 1);
        }
        let end = if leaves {
            client.leave().await;
            End::Aborted
        } else {
            let trailers = soon(response.body_mut().trailers()).await.expect("it is whole").expect("there are trailers");
            assert_eq!(trailers["grpc-status"], "0");
            End::Complete
        };
        assert_eq!(server.witness.next().await.end.kind(), end);
        soon(server.supervisor.idle()).await;
    }

    // An answer without a body, which is a head alone.
    let mut client = Multiplexed::connect(&server).await;
    let response = client.call("/grpc.health.v1.Health/Check", b"\0\0\0\0\x06\n\x04mail").await;
    assert_eq!(response.headers()["grpc-status"], "5");
    let end = server.witness.next().await.end;
    assert_eq!((end.kind(), end.grpc_status(), end.bytes_sent()), (End::Complete, Some(5), Some(0)));
}

/// Serves connections whose writes are noted below the wrapper; each response leaves a task, which shows what was noted when it
/// starts, and whether its own response was taken whole.
async fn watched<F>(supervisor: Supervisor, show: F) -> Server
where
    F: Fn(&Arc<Taken>, bool) + Clone + Send + Sync + 'static,
{
    watched_by(supervisor, auto::Builder::new(TokioExecutor::new()), show).await
}

async fn watched_by<F>(supervisor: Supervisor, builder: auto::Builder<TokioExecutor>, show: F) -> Server
where
    F: Fn(&Arc<Taken>, bool) + Clone + Send + Sync + 'static,
{
    let numbers = Arc::new(AtomicUsize::new(0));
    let service = BackgroundLayer::with(supervisor.clone()).layer(service_fn(move |request: Request<Incoming>| {
        let taken = request.extensions().get::<Arc<Taken>>().expect("the connection is probed").clone();
        let show = show.clone();
        let tasks = request.background_tasks().expect("the layer is there");
        let number = numbers.fetch_add(1, SeqCst);
        tasks.add(Task::new(async move { show(&taken, taken.has(number)) }).when(When::Complete));
        let data = Step::data(numbered(number));
        let body = match request.uri().path() {
            "/full" => Script::new([data]).sized(NUMBERED as u64).tells_end(),
            "/stream" => Script::new([data]),
            "/trailers" => Script::new([data, Step::trailer("grpc-status", "0")]),
            _ => unreachable!("the tests ask for what there is"),
        };
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    }));
    Server::each(supervisor, Witness::new(), move |stream| {
        let taken = Arc::<Taken>::default();
        let stream = SentStream::new(probed(stream, taken.clone()));
        let service = ServiceBuilder::new()
            .layer(stream.connection())
            .layer(MapRequestLayer::new(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(taken.clone());
                request
            }))
            .service(service.clone());
        let builder = builder.clone();
        async move {
            // How a connection ends is for the client of the test to look at.
            let service = TowerToHyperService::new(service);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// Makes 10,000 requests, so many at once, and returns how many tasks started early.
async fn load(client: reqwest::Client, paths: &'static [&str], at_once: usize) -> usize {
    let early = Arc::new(AtomicUsize::new(0));
    let seen = early.clone();
    let server = watched(sent(), move |_, whole| {
        seen.fetch_add(usize::from(!whole), SeqCst);
    })
    .await;
    let mut requests = JoinSet::new();
    for nth in 0..at_once {
        let (client, address) = (client.clone(), server.address);
        requests.spawn(async move {
            for request in 0..10_000 / at_once {
                let path = paths[(nth + request) % paths.len()];
                let response = soon(client.get(format!("http://{address}{path}")).send()).await.expect("the server answers");
                assert_eq!(soon(response.bytes()).await.expect("it is whole").len(), NUMBERED);
            }
        });
    }
    soon(requests.join_all()).await;
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.succeeded, stats.added()), (10_000, 10_000), "{stats:?}");
    early.load(SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_over_http1() {
    assert_eq!(load(reqwest::Client::new(), &["/full", "/stream"], 8).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_over_http2() {
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    assert_eq!(load(client, &["/full", "/stream", "/trailers"], 20).await, 0);
}

impl Connected for Probed {
    type ConnectInfo = Arc<Taken>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.taken.clone()
    }
}

/// Answers with numbers, each of which leaves a task that looks whether its own response was taken whole.
#[derive(Clone, Default)]
struct Numbered {
    numbers: Arc<AtomicUsize>,
    early: Arc<AtomicUsize>,
}

impl Numbered {
    fn answer(&self, request: &tonic::Request<HealthCheckRequest>) -> Result<HealthCheckResponse, Status> {
        // A proto3 message leaves out what is 0.
        let (number, early) = (1 + self.numbers.fetch_add(1, SeqCst), self.early.clone());
        let taken = request.extensions().get::<Arc<Taken>>().expect("the connection is probed").clone();
        let look = async move {
            early.fetch_add(usize::from(!taken.has(number)), SeqCst);
        };
        request.background_tasks()?.add(Task::new(look).when(When::Complete));
        Ok(HealthCheckResponse { status: number.try_into().expect("there are not so many") })
    }
}

/// How many messages a stream has.
const MESSAGES: usize = 3;

#[tonic::async_trait]
impl Health for Numbered {
    async fn check(&self, request: tonic::Request<HealthCheckRequest>) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.answer(&request).map(tonic::Response::new)
    }

    type WatchStream = futures_util::stream::Iter<std::array::IntoIter<Result<HealthCheckResponse, Status>, MESSAGES>>;

    async fn watch(&self, request: tonic::Request<HealthCheckRequest>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let message = self.answer(&request)?;
        Ok(tonic::Response::new(futures_util::stream::iter([message; MESSAGES].map(Ok))))
    }
}

/// Calls, and streams from the server, over 4 connections with 25 streams each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_over_grpc() {
    let (listener, supervisor, service) = (listen().await, sent(), Numbered::default());
    let address = listener.local_addr().expect("it is bound");
    let probe = |stream| SentStream::new(probed(stream, Arc::default()));
    let serving = tonic::transport::Server::builder()
        .layer(BackgroundLayer::with(supervisor.clone()))
        .add_service(HealthServer::new(service.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener).map(move |stream| stream.map(probe)));
    let accept = tokio::spawn(async move { serving.await.expect("it serves") });
    let server = Server::running(address, accept, supervisor, Witness::new());

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
                        soon(client.check(asked)).await.expect("it is answered");
                        continue;
                    }
                    let mut messages = soon(client.watch(asked)).await.expect("it is answered").into_inner();
                    for _ in 0..MESSAGES {
                        assert!(soon(messages.message()).await.expect("it does not fail").is_some());
                    }
                    assert!(soon(messages.message()).await.expect("it ends well").is_none());
                }
            });
        }
    }
    streams.join_all().await;
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.succeeded, stats.added()), (10_000, 10_000), "{stats:?}");
    assert_eq!(service.early.load(SeqCst), 0);
}

/// Several requests in one segment, to servers that answer them one by one, and that put the answers together.
#[tokio::test]
async fn pipelined_requests() {
    for together in [false, true] {
        let early = Arc::new(AtomicUsize::new(0));
        let seen = early.clone();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().pipeline_flush(together);
        let server = watched_by(sent(), builder, move |_, whole| {
            seen.fetch_add(usize::from(!whole), SeqCst);
        })
        .await;
        let mut client = Raw::connect(server.address).await;
        for _ in 0..50 {
            let paths = ["/full", "/stream", "/full"];
            let requests = paths.map(|path| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
            client.send(requests.concat()).await;
            for _ in paths {
                let head = client.until("\r\n\r\n").await;
                let end = if head.contains("chunked") { "\r\n0\r\n\r\n" } else { "hello" };
                client.until(end).await;
            }
        }
        drop(client);
        soon(server.supervisor.idle()).await;
        assert_eq!((server.supervisor.stats().succeeded, early.load(SeqCst)), (150, 0), "together: {together}");
    }
}

#[tokio::test]
async fn a_mark_adds_no_frame() {
    for release in [Release::EndOfStream, Release::Sent] {
        let shown = Arc::new(Mutex::new(None));
        let show = shown.clone();
        let server = watched(Supervisor::builder().release(release).build(), move |taken, _| {
            show.lock().unwrap().replace(taken.clone());
        })
        .await;
        let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
        for path in ["/full", "/stream", "/trailers"] {
            let response = soon(client.get(format!("http://{}{path}", server.address)).send()).await.expect("the server answers");
            assert_eq!(soon(response.bytes()).await.expect("it is whole").len(), NUMBERED);
        }
        soon(server.supervisor.idle()).await;
        let taken = shown.lock().unwrap().take().expect("a task has run");
        assert_eq!(taken.data(), [(true, NUMBERED), (false, NUMBERED), (true, 0), (false, NUMBERED)], "{release:?}");
    }
}
