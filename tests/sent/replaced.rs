//! A layer outside of `BackgroundLayer` gives the server a head before the service answers, or another
//! response in place of the one that the service makes.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Full, channel::Channel};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind, Supervisor, middleware::ResponseBody,
};

use super::tracked::{assert_ends, assert_waits, last_byte, serve_tracked, until_deferred};
use crate::common::{
    Multiplexed, Raw, Script, Servable, Server, Step, Witness, rest, settle, soon,
};

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 16;

/// A layer that answers at once, and then writes what the service answers. It holds the service's body
/// until it is told to drop it.
async fn serve_early_heads(release: Arc<Notify>) -> Server {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let inner = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let large = || Step::data(vec![b'.'; CHUNK]);
            let body = match request.uri().path() {
                "/large" => Script::new((0..CHUNKS).map(|_| large())),
                _ => Script::new([Step::data("hello")]),
            };
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        },
    ));
    let service = service_fn(move |request: Request<Incoming>| {
        let (inner, release) = (inner.clone(), release.clone());
        let (mut sender, channel) = Channel::<Bytes>::new(CHUNKS);
        tokio::spawn(async move {
            // The server sends the head first.
            settle().await;
            let mut body = inner.oneshot(request).await.unwrap().into_body();
            while let Some(Ok(frame)) = body.frame().await {
                // The client may be gone.
                let _ = sender.send(frame).await;
            }
            drop(sender);
            release.notified().await;
            drop(body);
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(channel)))
    });
    serve_tracked(supervisor, witness, service).await
}

#[tokio::test]
async fn http1_a_head_before_the_service_and_a_client_that_stalls() {
    let release = Arc::new(Notify::new());
    release.notify_one();
    let server = serve_early_heads(release).await;
    let mut client = Raw::narrow(server.address).await;
    client.get_last("/large").await;
    client.exactly(CHUNKS / 4 * CHUNK).await;
    assert_waits(&server, "the client has read a quarter").await;
    assert!(client.rest().await.len() > (CHUNKS / 2) * CHUNK);
    assert_ends(&server, EndKind::Complete).await;
}

#[tokio::test]
async fn a_head_before_the_service_and_a_body_that_is_dropped_late() {
    let release = Arc::new(Notify::new());
    let server = serve_early_heads(release.clone()).await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("0\r\n\r\n").await;
    assert_waits(&server, "the layer has the body").await;
    release.notify_one();
    assert_ends(&server, EndKind::Complete).await;

    let mut client = Multiplexed::connect(&server).await;
    let mut response = client.get("/").await;
    assert_eq!(
        rest(response.body_mut()).await.expect("it is whole").0,
        b"hello"
    );
    release.notify_one();
    assert_ends(&server, EndKind::Complete).await;
}

/// Runs the service in a task of its own, and answers 504 when it is told to give up.
fn giving_up<S, B>(inner: S, give_up: Arc<Notify>) -> impl Servable
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    service_fn(move |request: Request<Incoming>| {
        let (inner, give_up) = (inner.clone(), give_up.clone());
        let answer = tokio::spawn(async move {
            let (head, body) = inner.oneshot(request).await.unwrap().into_parts();
            let whole = body.collect().await.expect("it is whole").to_bytes();
            Response::from_parts(head, Full::new(whole))
        });
        async move {
            tokio::select! {
                answer = answer => Ok::<_, Infallible>(answer.expect("it does not panic")),
                () = give_up.notified() => {
                    let answer = Response::builder().status(StatusCode::GATEWAY_TIMEOUT);
                    let text = Bytes::from_static(b"later than the client can wait");
                    Ok(answer.body(Full::new(text)).expect("it is valid"))
                }
            }
        }
    })
}

/// Checks that nothing of the next response counts as sent.
async fn assert_nothing_sent(server: &Server) {
    let end = server.witness.next().await.end;
    let result = (end.kind(), end.bytes_sent());
    assert_eq!(result, (EndKind::Interrupted, Some(0)), "{end:?}");
}

/// Lets the service answer, and checks that nothing of its response counts as sent.
async fn assert_late_answer_is_lost(server: &Server, go: &Notify) {
    settle().await;
    go.notify_one();
    assert_nothing_sent(server).await;
}

/// A service that answers when it is told to.
fn waiting(
    supervisor: &Supervisor,
    witness: &Witness,
    go: Arc<Notify>,
) -> impl Servable<
    Body = ResponseBody<Script>,
    Response = Response<ResponseBody<Script>>,
    Error = Infallible,
> {
    let watching = witness.clone();
    BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let go = go.clone();
            async move {
                go.notified().await;
                Ok::<_, Infallible>(Response::new(Script::new([Step::data("hello")])))
            }
        },
    ))
}

#[tokio::test]
async fn a_timeout_that_answers_before_the_service() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let (go, give_up) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let service = giving_up(waiting(&supervisor, &witness, go.clone()), give_up.clone());
    let server = serve_tracked(supervisor, witness, service).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    until_deferred(&server, 1).await;
    give_up.notify_one();
    client.until("can wait").await;
    assert_late_answer_is_lost(&server, &go).await;

    let mut client = Multiplexed::connect(&server).await;
    let (response, _) = client.send(Method::GET, "/").await;
    until_deferred(&server, 1).await;
    give_up.notify_one();
    rest(soon(response).await.expect("there is a head").body_mut())
        .await
        .expect("it is whole");
    assert_late_answer_is_lost(&server, &go).await;
}

/// Calls the service once more after its first answer, when it is told to.
#[tokio::test]
async fn a_second_try_after_the_server_gave_up() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let (go, give_up) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = Arc::new(Notify::new());
    let watching = witness.clone();
    let inner = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<()>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let body = Script::new([Step::data("hello")]);
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        },
    ));
    let (tried, again) = (first.clone(), go.clone());
    let trying = service_fn(move |request: Request<Incoming>| {
        let (inner, tried, again) = (inner.clone(), tried.clone(), again.clone());
        let request = request.map(drop);
        async move {
            drop(inner.clone().oneshot(request.clone()).await);
            tried.notify_one();
            again.notified().await;
            inner.oneshot(request).await
        }
    });
    let service = giving_up(trying, give_up.clone());
    let server = serve_tracked(supervisor, witness, service).await;

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    soon(first.notified()).await;
    assert_nothing_sent(&server).await;
    give_up.notify_one();
    client.until("can wait").await;
    assert_late_answer_is_lost(&server, &go).await;

    let mut client = Multiplexed::connect(&server).await;
    let (_response, mut stream) = client.send(Method::GET, "/").await;
    soon(first.notified()).await;
    assert_nothing_sent(&server).await;
    stream.send_reset(h2::Reason::CANCEL);
    assert_late_answer_is_lost(&server, &go).await;
}

/// A layer collects the response, which echoes the request. The server writes `100 Continue` meanwhile.
#[tokio::test]
async fn http1_a_client_that_leaves_after_100_continue() {
    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            let (mut sender, channel) = Channel::<Bytes, hyper::Error>::new(1);
            tokio::spawn(async move {
                for text in ["hello", "world"] {
                    let sent = sender.send_data(Bytes::from_static(text.as_bytes())).await;
                    sent.expect("the layer reads");
                }
                if let Err(error) = request.into_body().collect().await {
                    sender.abort(error);
                }
            });
            std::future::ready(Ok::<_, Infallible>(Response::new(channel)))
        },
    ));
    let collecting = service.and_then(
        |response: Response<ResponseBody<Channel<Bytes, hyper::Error>>>| async {
            let (head, body) = response.into_parts();
            let whole = body.collect().await.map(Collected::to_bytes);
            let body = Full::new(whole.unwrap_or_default());
            Ok::<_, Infallible>(Response::from_parts(head, body))
        },
    );
    let server = serve_tracked(supervisor, witness, collecting).await;
    let mut client = Raw::connect(server.address).await;
    client
        .send("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert!(client.until("\r\n\r\n").await.contains("100 Continue"));
    settle().await;
    client.reset();
    let end = server.witness.next().await.end;
    assert_ne!(end.kind(), EndKind::Complete);
    assert_eq!(end.bytes_sent(), Some(0), "{end:?}");
}
