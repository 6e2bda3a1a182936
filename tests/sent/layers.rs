//! Tasks also start after the last byte if a layer outside of `BackgroundLayer` replaces the body, tries
//! again, runs the service in another task or belongs to another supervisor.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::SendStream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    retry::{Policy, RetryLayer},
    service_fn,
};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind, StartOn, Supervisor, middleware::ResponseBody,
};
use tower_http::compression::CompressionLayer;

use super::tracked::{assert_ends, assert_waits, last_byte, serve_tracked, until_deferred};
use crate::common::{
    Multiplexed, Raw, Script, Servable, Server, Step, Witness, data, rest, settle, soon,
    unreleased_data,
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
                "/chunks" => Script::new((0..3).map(|_| Step::data(bytes.clone()))),
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
            let (response, stream) = client.send(Method::GET, path).await;
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

/// A response passes the layers of two supervisors. The task of the handler belongs to the inner one,
/// and the outer one has a task or none.
#[tokio::test]
async fn layers_of_two_supervisors() {
    for tasks in [0, 1] {
        let (inner, outer) = (last_byte(), last_byte());
        let (witness, seen_outside) = (Witness::new(), Witness::new());
        let watching = seen_outside.clone();
        let service = ServiceBuilder::new()
            .layer(BackgroundLayer::with_supervisor(outer.clone()))
            .map_request(move |request: Request<Incoming>| {
                for _ in 0..tasks {
                    watching.watch(&request.background_tasks().expect("the layer is there"));
                }
                request
            })
            .service(service(&inner, &witness, LARGE));
        let server = serve_tracked(inner, witness, service).await;
        let assert_both_wait = async |case: &str| {
            assert_waits(&server, case).await;
            assert_eq!(outer.stats().deferred, tasks, "{case}");
        };
        let assert_both_end = async |end: EndKind| {
            assert_ends(&server, end).await;
            for _ in 0..tasks {
                assert_eq!(seen_outside.next().await.end.kind(), end);
            }
            soon(outer.idle()).await;
            assert_eq!(outer.open_responses(), 0);
        };
        for path in ["/full", "/stream", "/trailers"] {
            for leave in [false, true] {
                let mut client = Raw::narrow(server.address).await;
                client.get_last(path).await;
                client.until("\r\n\r\n").await;
                assert_both_wait(path).await;
                if leave {
                    client.reset();
                    assert_both_end(EndKind::Interrupted).await;
                } else {
                    assert!(client.bytes().await.len() >= LARGE, "{path}: it is whole");
                    assert_both_end(EndKind::Complete).await;
                }
            }
            for (window, leave) in HTTP2_CASES {
                let mut client = Multiplexed::with_window(&server, window).await;
                let (response, mut stream) = client.send(Method::GET, path).await;
                let mut response = soon(response).await.expect("there is a head");
                assert_both_wait(path).await;
                if leave.is_none() {
                    client.set_window(1 << 24);
                    rest(response.body_mut()).await.expect("it is whole");
                    assert_both_end(EndKind::Complete).await;
                    continue;
                }
                if leave == Some(true) {
                    client.leave().await;
                } else {
                    stream.send_reset(h2::Reason::CANCEL);
                }
                assert_both_end(EndKind::Interrupted).await;
            }
        }
    }
}

/// Requests three chunks of 5,000 bytes, and resets the stream in the middle of the third. The two
/// before are written.
async fn reset_in_third_chunk(server: &Server) {
    let mut client = Multiplexed::with_window(server, 12_500).await;
    let (response, mut stream) = client.send(Method::GET, "/chunks").await;
    let mut response = soon(response).await.expect("there is a head");
    let mut read = 0;
    while read < 12_500 {
        read += unreleased_data(response.body_mut()).await.len();
    }
    settle().await;
    stream.send_reset(h2::Reason::CANCEL);
    settle().await;
}

#[tokio::test]
async fn two_supervisors_do_not_count_data_twice() {
    let (inner, outer) = (last_byte(), last_byte());
    let (witness, seen_outside) = (Witness::new(), Witness::new());
    let watching = seen_outside.clone();
    let service = ServiceBuilder::new()
        .layer(BackgroundLayer::with_supervisor(outer))
        .map_request(move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            request
        })
        .service(service(&inner, &witness, 5_000));
    let server = serve_tracked(inner, witness, service).await;
    reset_in_third_chunk(&server).await;
    for (seen, bytes_sent) in [(&server.witness, Some(10_000)), (&seen_outside, None)] {
        let end = seen.next().await.end;
        assert_eq!(
            (end.kind(), end.bytes_sent()),
            (EndKind::Interrupted, bytes_sent)
        );
    }
}

/// Tries once more after 503.
#[derive(Clone)]
struct Again;

impl<Res, E> Policy<Request<()>, Response<Res>, E> for Again {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _request: &mut Request<()>,
        result: &mut Result<Response<Res>, E>,
    ) -> Option<Self::Future> {
        let is_unavailable =
            |response: &mut Response<Res>| response.status() == StatusCode::SERVICE_UNAVAILABLE;
        let again = result.as_mut().is_ok_and(is_unavailable);
        again.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<()>) -> Option<Request<()>> {
        Some(request.clone())
    }
}

/// A layer outside drops the response of the first attempt, and sends that of the second. Only the
/// second has a task.
#[tokio::test]
async fn a_layer_that_tries_again() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let attempts = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .map_request(|request: Request<Incoming>| request.map(drop))
        .layer(RetryLayer::new(Again))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .service_fn(move |request: Request<()>| {
            let mut response = Response::new(Script::new([Step::data("try again")]));
            if attempts.fetch_add(1, SeqCst) % 2 == 0 {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            } else {
                watching.watch(&request.background_tasks().expect("the layer is there"));
                let chunks = |count| Script::new((0..count).map(|_| Step::data(noise(5_000))));
                *response.body_mut() = match request.uri().path() {
                    "/full" => chunks(1).tells_end(),
                    "/stream" => chunks(1),
                    _ => chunks(3),
                };
            }
            std::future::ready(Ok::<_, Infallible>(response))
        });
    let server = serve_tracked(supervisor, witness, service).await;
    for path in ["/full", "/stream"] {
        for (window, leave) in HTTP2_CASES {
            let mut client = Multiplexed::with_window(&server, window).await;
            let (response, stream) = client.send(Method::GET, path).await;
            let mut response = soon(response).await.expect("there is a head");
            assert_waits(&server, path).await;
            match leave {
                None => {
                    client.set_window(1 << 24);
                    rest(response.body_mut()).await.expect("it is whole");
                    assert_ends(&server, EndKind::Complete).await;
                }
                Some(leave) => assert_interrupted(&server, client, stream, leave).await,
            }
        }
    }
    reset_in_third_chunk(&server).await;
    let end = server.witness.next().await.end;
    assert_eq!(end.bytes_sent(), Some(10_000));
}

/// A layer outside runs the service in another task, so the service answers a client that has left.
#[tokio::test]
async fn a_service_that_answers_a_client_that_left() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let (watching, permits) = (witness.clone(), Arc::new(Semaphore::new(0)));
    let passed = permits.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let permits = permits.clone();
            async move {
                permits.acquire().await.expect("it is open").forget();
                let response = Response::builder().status(StatusCode::NO_CONTENT);
                response.body(Script::new([]).tells_end())
            }
        },
    ));
    let spawned = service_fn(move |request: Request<Incoming>| {
        let answer = tokio::spawn(service.clone().oneshot(request));
        async move { answer.await.expect("it does not panic") }
    });
    let server = serve_tracked(supervisor, witness, spawned).await;
    let assert_answer_is_lost = async || {
        settle().await;
        passed.add_permits(1);
        assert_ends(&server, EndKind::Interrupted).await;
    };

    let mut client = Raw::narrow(server.address).await;
    client.get_last("/").await;
    until_deferred(&server, 1).await;
    client.reset();
    assert_answer_is_lost().await;

    let mut client = Multiplexed::with_window(&server, 1).await;
    let (_response, mut stream) = client.send(Method::GET, "/").await;
    until_deferred(&server, 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    assert_answer_is_lost().await;
}
