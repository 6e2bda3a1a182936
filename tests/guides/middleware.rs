//! The table of the guide "Order of layers" says what happens.

use std::{
    convert::Infallible,
    future::{Future, Ready, pending, ready},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::Notify;
use tower::{
    Layer, Service, ServiceExt, buffer::Buffer, hedge, hedge::Hedge, retry, retry::RetryLayer,
    service_fn, util::MapResponseLayer,
};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, timeout::TimeoutLayer,
};

use crate::{
    table::table,
    tasks::{Seen, add_all},
};

const GUIDE: &str = include_str!("../../docs/guides/middleware.md");
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn every_row_is_true() {
    for row in table(GUIDE, "layer and event") {
        let [event, place, expected @ ..] = &row[..] else {
            panic!("{row:?}")
        };
        let seen = Seen::new();
        run(&seen, event, is_inside(place)).await;
        seen.supervisor.idle_within(MINUTE).await.unwrap();
        let happened = [
            seen.ends(),
            seen.cell("Responded"),
            seen.cell("Success"),
            seen.cell("Always"),
        ];
        assert_eq!(happened, expected, "{event}, {place}");
    }
}

fn is_inside(place: &str) -> bool {
    match place {
        "inside" => true,
        "outside" => false,
        _ => panic!("{place:?} is no place"),
    }
}

async fn run(seen: &Seen, event: &str, inside: bool) {
    match event {
        "timeout fires" => timeout(seen, inside).await,
        "catch-panic, the handler panics" => panic(seen, inside).await,
        "compression" => compression(seen, inside).await,
        "retry after a 503" => retry(seen, inside).await,
        "hedge, the second attempt wins" => hedge(seen, inside).await,
        "buffer" => buffer(seen, inside).await,
        "transaction, the commit fails" => transaction(seen, inside).await,
        "gRPC-Web, the stream ends with an error" => grpc_web(seen, inside).await,
        "spawn, the client leaves before the head" => spawn(seen, inside).await,
        "replaces an empty response by a 500" => replace(seen, inside).await,
        _ => panic!("no test for {event:?}"),
    }
}

/// Calls a service as a server would, and reads its response to the end.
async fn call<S, R, B>(service: S, request: Request<R>) -> Response<Bytes>
where
    S: Service<Request<R>, Response = Response<B>>,
    S::Error: Into<tower::BoxError>,
    B: Body,
{
    let response = service.oneshot(request).await.map_err(Into::into).unwrap();
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .unwrap_or_else(|_| panic!("the body failed"))
        .to_bytes();
    Response::from_parts(head, body)
}

fn hello(request: &Request<()>) -> Response<Full<Bytes>> {
    add_all(request);
    Response::new(Full::from("hello"))
}

async fn timeout(seen: &Seen, inside: bool) {
    let layer =
        TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(10));
    let handler = service_fn(async |request: Request<()>| {
        add_all(&request);
        pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let response = if inside {
        call(seen.layer.layer(layer.layer(handler)), Request::new(())).await
    } else {
        call(layer.layer(seen.layer.layer(handler)), Request::new(())).await
    };
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

async fn panic(seen: &Seen, inside: bool) {
    let layer = CatchPanicLayer::new();
    let handler = service_fn(
        async |request: Request<()>| -> Result<Response<Full<Bytes>>, Infallible> {
            add_all(&request);
            panic!("the handler panics")
        },
    );
    let response = if inside {
        call(seen.layer.layer(layer.layer(handler)), Request::new(())).await
    } else {
        call(layer.layer(seen.layer.layer(handler)), Request::new(())).await
    };
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

async fn compression(seen: &Seen, inside: bool) {
    let handler = service_fn(async |request: Request<()>| {
        add_all(&request);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(vec![b'a'; 5000])))
    });
    let request = Request::get("/")
        .header(header::ACCEPT_ENCODING, "gzip")
        .body(())
        .unwrap();
    let response = if inside {
        call(
            seen.layer.layer(CompressionLayer::new().layer(handler)),
            request,
        )
        .await
    } else {
        call(
            CompressionLayer::new().layer(seen.layer.layer(handler)),
            request,
        )
        .await
    };
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
}

/// Allows one retry.
#[derive(Clone)]
struct Once(bool);

impl<B> retry::Policy<Request<()>, Response<B>, Infallible> for Once {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<()>,
        result: &mut Result<Response<B>, Infallible>,
    ) -> Option<Self::Future> {
        let failed = result
            .as_ref()
            .is_ok_and(|response| response.status() == StatusCode::SERVICE_UNAVAILABLE);
        (failed && mem::take(&mut self.0)).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<()>) -> Option<Request<()>> {
        Some(request.clone())
    }
}

impl hedge::Policy<Request<()>> for Once {
    fn clone_request(&self, request: &Request<()>) -> Option<Request<()>> {
        Some(request.clone())
    }

    fn can_retry(&self, _: &Request<()>) -> bool {
        self.0
    }
}

async fn retry(seen: &Seen, inside: bool) {
    let is_first = Arc::new(AtomicBool::new(true));
    let handler = service_fn(move |request: Request<()>| {
        let mut response = hello(&request);
        if is_first.swap(false, Ordering::Relaxed) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            *response.body_mut() = Full::default();
        }
        ready(Ok::<_, Infallible>(response))
    });
    let layer = RetryLayer::new(Once(true));
    let response = if inside {
        call(seen.layer.layer(layer.layer(handler)), Request::new(())).await
    } else {
        call(layer.layer(seen.layer.layer(handler)), Request::new(())).await
    };
    assert_eq!(response.status(), StatusCode::OK);
}

async fn hedge(seen: &Seen, inside: bool) {
    let is_first = Arc::new(AtomicBool::new(true));
    let handler = service_fn(move |request: Request<()>| {
        let response = hello(&request);
        let hangs = is_first.swap(false, Ordering::Relaxed);
        async move {
            if hangs {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let response = if inside {
        let hedged = Hedge::new_with_mock_latencies(handler, Once(true), 1, 0.9, MINUTE, &[10; 20]);
        call(seen.layer.layer(hedged), Request::new(())).await
    } else {
        let handler = seen.layer.layer(handler);
        call(
            Hedge::new_with_mock_latencies(handler, Once(true), 1, 0.9, MINUTE, &[10; 20]),
            Request::new(()),
        )
        .await
    };
    assert_eq!(response.body(), "hello");
}

async fn buffer(seen: &Seen, inside: bool) {
    let handler = service_fn(|request: Request<()>| ready(Ok::<_, Infallible>(hello(&request))));
    if inside {
        call(seen.layer.layer(Buffer::new(handler, 8)), Request::new(())).await;
    } else {
        call(Buffer::new(seen.layer.layer(handler), 8), Request::new(())).await;
    }
}

/// As a commit that fails: the response of the handler is dropped.
fn failed<B>(_: Response<B>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("not committed"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

async fn transaction(seen: &Seen, inside: bool) {
    let handler = service_fn(|request: Request<()>| ready(Ok::<_, Infallible>(hello(&request))));
    let response = if inside {
        call(
            seen.layer
                .layer(MapResponseLayer::new(failed).layer(handler)),
            Request::new(()),
        )
        .await
    } else {
        call(
            MapResponseLayer::new(failed).layer(seen.layer.layer(handler)),
            Request::new(()),
        )
        .await
    };
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

async fn replace(seen: &Seen, inside: bool) {
    assert!(!inside, "only outside is of interest");
    let handler = service_fn(async |request: Request<()>| {
        add_all(&request);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let response = call(
        MapResponseLayer::new(failed).layer(seen.layer.layer(handler)),
        Request::new(()),
    )
    .await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

/// A gRPC stream of one message, which ends with an error.
async fn broken_stream<B>(
    request: Request<B>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    add_all(&request);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 13.into());
    let frames = [
        Frame::data(Bytes::from_static(&[0; 5])),
        Frame::trailers(trailers),
    ];
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok)));
    Ok(Response::builder()
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(body)
        .unwrap())
}

async fn grpc_web(seen: &Seen, inside: bool) {
    let request = Request::post("/service/Method")
        .header(header::CONTENT_TYPE, "application/grpc-web+proto")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let layer = tonic_web::GrpcWebLayer::new();
    let response = if inside {
        call(
            seen.layer.layer(layer.layer(service_fn(broken_stream))),
            request,
        )
        .await
    } else {
        call(
            layer.layer(seen.layer.layer(service_fn(broken_stream))),
            request,
        )
        .await
    };
    let text = String::from_utf8_lossy(response.body());
    assert!(text.contains("grpc-status:13"), "{text:?}");
}

/// Runs a service in a tokio task of its own, so that it finishes if the client leaves.
fn spawned<S>(
    service: S,
) -> impl Service<Request<()>, Response = S::Response, Error = S::Error, Future: Send> + Clone
where
    S: Service<Request<()>, Response: Send, Error: Send, Future: Send> + Clone + Send + 'static,
{
    service_fn(move |request| {
        let call = tokio::spawn(service.clone().oneshot(request));
        async { call.await.expect("the handler does not panic") }
    })
}

async fn spawn(seen: &Seen, inside: bool) {
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (called, going) = (Arc::clone(&entered), Arc::clone(&go_on));
    let handler = service_fn(move |request: Request<()>| {
        let response = hello(&request);
        let (called, going) = (Arc::clone(&called), Arc::clone(&going));
        async move {
            called.notify_one();
            going.notified().await;
            Ok::<_, Infallible>(response)
        }
    });
    if inside {
        leave(
            seen.layer.layer(spawned(handler)).oneshot(Request::new(())),
            &entered,
            &go_on,
        )
        .await;
    } else {
        leave(
            spawned(seen.layer.layer(handler)).oneshot(Request::new(())),
            &entered,
            &go_on,
        )
        .await;
    }
}

/// Drops the call when it has reached the handler, and then lets the handler finish.
async fn leave(call: impl Future, entered: &Notify, go_on: &Notify) {
    let mut call = tokio_test::task::spawn(call);
    assert!(call.poll().is_pending());
    entered.notified().await;
    drop(call);
    go_on.notify_one();
}
