//! `Release::Sent` with layers outside of `BackgroundLayer`, which take the body apart before the server has it.

mod support;

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use support::{Multiplexed, Raw, Script, Server, Step, Witness, data, rest, settle, soon};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, BoxError, End, Release, ResponseBody, SentStream, Supervisor};
use tower_http::compression::CompressionLayer;

const LARGE: usize = 8 << 20;

/// What does not get smaller by compression.
fn noise(length: usize) -> Bytes {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// Answers with a stream, or with a body that is there at once.
fn service(
    supervisor: &Supervisor,
    witness: &Witness,
    length: usize,
) -> impl Service<Request<Incoming>, Response = Response<ResponseBody<Script>>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let (watching, bytes) = (witness.clone(), noise(length));
    BackgroundLayer::with(supervisor.clone()).layer(service_fn(move |request: Request<Incoming>| {
        watching.watch(&request.background_tasks().expect("the layer is there"));
        let steps = [Step::data(bytes.clone())];
        let body = match request.uri().path() {
            "/full" => Script::new(steps).sized(bytes.len() as u64).tells_end(),
            "/stream" => Script::new(steps),
            "/trailers" => Script::new(steps.into_iter().chain([Step::trailer("grpc-status", "0")])),
            _ => unreachable!("the tests ask for what there is"),
        };
        std::future::ready(Ok(Response::new(body)))
    }))
}

/// Serves each connection, tracked or not.
async fn serve<S, B>(supervisor: Supervisor, witness: Witness, tracked: bool, service: S) -> Server
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    Server::each(supervisor, witness, move |stream| {
        let service = service.clone();
        async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // How a connection ends is for the client of the test to look at.
            if tracked {
                let stream = SentStream::new(stream);
                let service = TowerToHyperService::new(stream.connection().layer(service));
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            } else {
                let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await;
            }
        }
    })
    .await
}

fn sent() -> (Supervisor, Witness) {
    (Supervisor::builder().release(Release::Sent).build(), Witness::new())
}

/// No task has started, though those of an open response would have.
async fn waits(server: &Server, case: &str) {
    settle().await;
    let stats = server.supervisor.stats();
    assert_eq!((stats.collected, server.supervisor.open_responses()), (1, 1), "{case}: {stats:?}");
}

async fn ends(server: &Server, end: End) {
    assert_eq!(server.witness.next().await.end.kind(), end);
    soon(server.supervisor.idle()).await;
    server.witness.nothing_else().await;
}

/// A layer that has all of a body before its response goes on, which it does with a permit.
async fn buffering(tracked: bool, length: usize) -> (Server, Arc<Semaphore>) {
    let (supervisor, witness) = sent();
    let gate = Arc::new(Semaphore::new(0));
    let passed = gate.clone();
    let service = service(&supervisor, &witness, length).and_then(move |response: Response<ResponseBody<Script>>| {
        let gate = gate.clone();
        async move {
            let (parts, body) = response.into_parts();
            let whole = body.collect().await.expect("it does not fail").to_bytes();
            gate.acquire().await.expect("it is open").forget();
            Ok(Response::from_parts(parts, Full::new(Bytes::copy_from_slice(&whole))))
        }
    });
    (serve(supervisor, witness, tracked, service).await, passed)
}

#[tokio::test]
async fn a_layer_that_buffers_over_http1() {
    let (server, gate) = buffering(true, LARGE).await;
    for leave in [false, true] {
        for path in ["/full", "/stream", "/trailers"] {
            let mut client = Raw::narrow(server.address).await;
            client.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
            soon(async {
                while server.supervisor.stats().collected == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            waits(&server, path).await;
            gate.add_permits(1);
            client.until("\r\n\r\n").await;
            waits(&server, path).await;
            if leave {
                client.reset();
                ends(&server, End::Aborted).await;
            } else {
                assert_eq!(client.bytes().await.len(), LARGE);
                ends(&server, End::Complete).await;
            }
        }
    }
}

#[tokio::test]
async fn a_layer_that_buffers_over_http2() {
    let (server, gate) = buffering(true, 10).await;
    for (window, leave) in [(0, None), (1, None), (0, Some(false)), (1, Some(false)), (0, Some(true)), (1, Some(true))] {
        for path in ["/full", "/stream", "/trailers"] {
            let builder = h2::client::Builder::new().initial_window_size(window).to_owned();
            let mut client = Multiplexed::with(&server, &builder).await;
            let (response, mut stream) = client.send(http::Method::GET, path).await;
            soon(async {
                while server.supervisor.stats().collected == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let case = format!("{path}, window of {window}, {leave:?}");
            waits(&server, &case).await;
            gate.add_permits(1);
            let mut response = soon(response).await.expect("there is a head");
            waits(&server, &case).await;
            match leave {
                None => {
                    client.set_window(1 << 24);
                    assert_eq!(rest(response.body_mut()).await.expect("it is whole").0.len(), 10);
                    ends(&server, End::Complete).await;
                    continue;
                }
                Some(false) => stream.send_reset(h2::Reason::CANCEL),
                Some(true) => client.leave().await,
            }
            ends(&server, End::Aborted).await;
        }
    }
}

#[tokio::test]
async fn a_layer_that_buffers_before_an_untracked_connection() {
    let (server, gate) = buffering(false, 10).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/full").await;
    soon(async {
        while server.supervisor.stats().collected == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    waits(&server, "the head is not written").await;
    gate.add_permits(1);
    client.until("\r\n\r\n").await;
    ends(&server, End::Complete).await;
}

async fn compressing(length: usize) -> Server {
    let (supervisor, witness) = sent();
    let service = ServiceBuilder::new().layer(CompressionLayer::new()).service(service(&supervisor, &witness, length));
    serve(supervisor, witness, true, service).await
}

#[tokio::test]
async fn compression_over_http1() {
    let server = compressing(LARGE).await;
    for leave in [false, true] {
        for path in ["/full", "/stream", "/trailers"] {
            let mut client = Raw::narrow(server.address).await;
            let request = "HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
            client.send(format!("GET {path} {request}")).await;
            assert!(client.until("\r\n\r\n").await.contains("gzip"));
            waits(&server, path).await;
            if leave {
                client.reset();
                ends(&server, End::Aborted).await;
            } else {
                assert!(client.bytes().await.len() > LARGE);
                ends(&server, End::Complete).await;
            }
        }
    }
}

#[tokio::test]
async fn compression_over_http2() {
    let server = compressing(100).await;
    for (window, leave) in [(0, None), (1, None), (0, Some(false)), (1, Some(false)), (0, Some(true)), (1, Some(true))] {
        for path in ["/full", "/stream", "/trailers"] {
            let builder = h2::client::Builder::new().initial_window_size(window).to_owned();
            let mut client = Multiplexed::with(&server, &builder).await;
            let (response, mut stream) = client.ask(path, "accept-encoding", "gzip").await;
            let mut response = soon(response).await.expect("there is a head");
            assert_eq!(response.headers()["content-encoding"], "gzip");
            let case = format!("{path}, window of {window}, {leave:?}");
            waits(&server, &case).await;
            match leave {
                None => {
                    for _ in 0..window * 3 {
                        assert!(data(response.body_mut()).await.is_some());
                        waits(&server, &case).await;
                    }
                    client.set_window(1 << 24);
                    rest(response.body_mut()).await.expect("it is whole");
                    ends(&server, End::Complete).await;
                    continue;
                }
                Some(false) => stream.send_reset(h2::Reason::CANCEL),
                Some(true) => client.leave().await,
            }
            ends(&server, End::Aborted).await;
        }
    }
}

#[tokio::test]
async fn compression_without_a_connection_waits_for_the_drop() {
    for (release, collected) in [(Release::EndOfStream, 0), (Release::Sent, 1)] {
        let supervisor = Supervisor::builder().release(release).build();
        let service = ServiceBuilder::new()
            .layer(CompressionLayer::new())
            .layer(BackgroundLayer::with(supervisor.clone()))
            .service_fn(|request: Request<()>| {
                request.background_tasks().expect("the layer is there").add(async {});
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(noise(100)))))
            });
        let request = Request::get("/").header("accept-encoding", "gzip").body(()).expect("it is a request");
        let mut response = service.oneshot(request).await.expect("it answers");
        while let Some(frame) = response.body_mut().frame().await {
            assert!(frame.expect("it does not fail").is_data());
            settle().await;
            assert_eq!(supervisor.stats().collected, collected, "{release:?}");
        }
        settle().await;
        assert_eq!(supervisor.stats().collected, collected, "{release:?}");
        drop(response);
        soon(supervisor.idle()).await;
        assert_eq!(supervisor.stats().succeeded, 1);
    }
}
