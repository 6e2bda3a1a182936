//! Tasks also start after the last byte if a layer outside of `BackgroundLayer` replaces the body.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use h2::SendStream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind, StartOn, Supervisor, middleware::ResponseBody,
};
use tower_http::compression::CompressionLayer;

use super::tracked::{assert_ends, assert_waits, last_byte, serve_tracked, until_deferred};
use crate::common::{
    Multiplexed, Raw, Script, Servable, Server, Step, Witness, data, rest, settle, soon,
};

const LARGE: usize = 8 << 20;

/// The window that streams begin with, and whether the client leaves or only resets its stream. It
/// does neither with `None`, and reads the whole response.
const HTTP2_CASES: [(u32, Option<bool>); 6] = [
    (0, None),
    (1, None),
    (0, Some(false)),
    (1, Some(false)),
    (0, Some(true)),
    (1, Some(true)),
];

/// Returns data that compression does not make smaller.
fn noise(length: usize) -> Bytes {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// Answers with a stream or with a body of known length.
fn service(
    supervisor: &Supervisor,
    witness: &Witness,
    length: usize,
) -> impl Service<
    Request<Incoming>,
    Response = Response<ResponseBody<Script>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let (watching, bytes) = (witness.clone(), noise(length));
    BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let steps = [Step::data(bytes.clone())];
            let body = match request.uri().path() {
                "/full" => Script::new(steps).sized(bytes.len() as u64).tells_end(),
                "/stream" => Script::new(steps),
                "/trailers" => {
                    Script::new(steps.into_iter().chain([Step::trailer("grpc-status", "0")]))
                }
                _ => unreachable!("the tests request no other path"),
            };
            std::future::ready(Ok(Response::new(body)))
        },
    ))
}

/// Serves each connection, tracked or not.
async fn serve(
    supervisor: Supervisor,
    witness: Witness,
    tracked: bool,
    service: impl Servable,
) -> Server {
    if tracked {
        serve_tracked(supervisor, witness, service).await
    } else {
        Server::serve(service, supervisor, witness).await
    }
}

/// Serves behind a layer that buffers all of a body, and passes its response on with a permit.
async fn buffering(tracked: bool, length: usize) -> (Server, Arc<Semaphore>) {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let permits = Arc::new(Semaphore::new(0));
    let passed = permits.clone();
    let service = service(&supervisor, &witness, length).and_then(
        move |response: Response<ResponseBody<Script>>| {
            let permits = permits.clone();
            async move {
                let (parts, body) = response.into_parts();
                let whole = body
                    .collect()
                    .await
                    .expect("the body does not fail")
                    .to_bytes();
                permits.acquire().await.expect("it is open").forget();
                Ok::<_, Infallible>(Response::from_parts(
                    parts,
                    Full::new(Bytes::copy_from_slice(&whole)),
                ))
            }
        },
    );
    (serve(supervisor, witness, tracked, service).await, passed)
}

/// Lets the client leave, or only reset its stream, and checks that the response is interrupted.
async fn assert_interrupted(
    server: &Server,
    client: Multiplexed,
    mut stream: SendStream<Bytes>,
    leave: bool,
) {
    if leave {
        client.leave().await;
        assert_ends(server, EndKind::Interrupted).await;
    } else {
        stream.send_reset(h2::Reason::CANCEL);
        assert_ends(server, EndKind::Interrupted).await;
        drop(client);
    }
}

#[tokio::test]
async fn a_layer_that_buffers_over_http1() {
    let (server, permits) = buffering(true, LARGE).await;
    for leave in [false, true] {
        for path in ["/full", "/stream", "/trailers"] {
            let mut client = Raw::narrow(server.address).await;
            client.get_last(path).await;
            until_deferred(&server, 1).await;
            assert_waits(&server, path).await;
            permits.add_permits(1);
            client.until("\r\n\r\n").await;
            assert_waits(&server, path).await;
            if leave {
                client.reset();
                assert_ends(&server, EndKind::Interrupted).await;
            } else {
                assert_eq!(client.bytes().await.len(), LARGE);
                assert_ends(&server, EndKind::Complete).await;
            }
        }
    }
}

#[tokio::test]
async fn a_layer_that_buffers_over_http2() {
    let (server, permits) = buffering(true, 10).await;
    for (window, leave) in HTTP2_CASES {
        for path in ["/full", "/stream", "/trailers"] {
            let mut client = Multiplexed::with_window(&server, window).await;
            let (response, stream) = client.send(http::Method::GET, path).await;
            until_deferred(&server, 1).await;
            let case = format!("{path}, window of {window}, {leave:?}");
            assert_waits(&server, &case).await;
            permits.add_permits(1);
            let mut response = soon(response).await.expect("there is a head");
            assert_waits(&server, &case).await;
            match leave {
                None => {
                    client.set_window(1 << 24);
                    assert_eq!(
                        rest(response.body_mut())
                            .await
                            .expect("the response is whole")
                            .0
                            .len(),
                        10
                    );
                    assert_ends(&server, EndKind::Complete).await;
                }
                Some(leave) => assert_interrupted(&server, client, stream, leave).await,
            }
        }
    }
}

#[tokio::test]
async fn a_layer_that_buffers_before_an_untracked_connection() {
    let (server, permits) = buffering(false, 10).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/full").await;
    until_deferred(&server, 1).await;
    assert_waits(&server, "the head is not written").await;
    permits.add_permits(1);
    client.until("\r\n\r\n").await;
    assert_ends(&server, EndKind::Complete).await;
}

async fn compressing(length: usize) -> Server {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let service = ServiceBuilder::new()
        .layer(CompressionLayer::new())
        .service(service(&supervisor, &witness, length));
    serve(supervisor, witness, true, service).await
}

#[tokio::test]
async fn compression_over_http1() {
    let server = compressing(LARGE).await;
    for leave in [false, true] {
        for path in ["/full", "/stream", "/trailers"] {
            let mut client = Raw::narrow(server.address).await;
            let request =
                "HTTP/1.1\r\nhost: localhost\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n";
            client.send(format!("GET {path} {request}")).await;
            assert!(client.until("\r\n\r\n").await.contains("gzip"));
            assert_waits(&server, path).await;
            if leave {
                client.reset();
                assert_ends(&server, EndKind::Interrupted).await;
            } else {
                assert!(client.bytes().await.len() > LARGE);
                assert_ends(&server, EndKind::Complete).await;
            }
        }
    }
}

#[tokio::test]
async fn compression_over_http2() {
    let server = compressing(100).await;
    for (window, leave) in HTTP2_CASES {
        for path in ["/full", "/stream", "/trailers"] {
            let mut client = Multiplexed::with_window(&server, window).await;
            let (response, stream) = client.ask(path, "accept-encoding", "gzip").await;
            let mut response = soon(response).await.expect("there is a head");
            assert_eq!(response.headers()["content-encoding"], "gzip");
            let case = format!("{path}, window of {window}, {leave:?}");
            assert_waits(&server, &case).await;
            match leave {
                None => {
                    for _ in 0..window * 3 {
                        assert!(data(response.body_mut()).await.is_some());
                        assert_waits(&server, &case).await;
                    }
                    client.set_window(1 << 24);
                    rest(response.body_mut())
                        .await
                        .expect("the response is whole");
                    assert_ends(&server, EndKind::Complete).await;
                }
                Some(leave) => assert_interrupted(&server, client, stream, leave).await,
            }
        }
    }
}

#[tokio::test]
async fn compression_without_a_connection() {
    for (start_on, deferred) in [(StartOn::EndOfStream, 0), (StartOn::LastByteSent, 1)] {
        let supervisor = Supervisor::builder().start_on(start_on).build();
        let service = ServiceBuilder::new()
            .layer(CompressionLayer::new())
            .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
            .service_fn(|request: Request<()>| {
                request
                    .background_tasks()
                    .expect("the layer is there")
                    .add(async {});
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(noise(100)))))
            });
        let request = Request::get("/")
            .header("accept-encoding", "gzip")
            .body(())
            .expect("it is a request");
        let mut response = service.oneshot(request).await.expect("it answers");
        while let Some(frame) = response.body_mut().frame().await {
            assert!(frame.expect("the body does not fail").is_data());
            settle().await;
            assert_eq!(supervisor.stats().deferred, deferred, "{start_on:?}");
        }
        settle().await;
        assert_eq!(supervisor.stats().deferred, deferred, "{start_on:?}");
        drop(response);
        soon(supervisor.idle()).await;
        assert_eq!(supervisor.stats().succeeded, 1);
    }
}
