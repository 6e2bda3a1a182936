//! Responses on a socket that takes no more writes for a while.

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, EndKind, Supervisor, middleware::ResponseBody,
};

use super::{
    gated::Gate,
    tracked::{assert_ends, assert_waits, last_byte, until_deferred},
};
use crate::common::{Raw, Script, Servable, Step, Witness, settle, soon};

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("the tests send short frames");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// The beginning of an HTTP/2 connection whose streams have this window, with a request on stream 1.
fn http2_request(window: u32) -> Vec<u8> {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    // The indexed headers `:method: GET`, `:scheme: http` and `:path: /`, then `:authority`.
    let headers = [&[0x82, 0x86, 0x84][..], b"\x41\x09localhost"].concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &settings),
        frame(1, 5, 1, &headers),
    ]
    .concat()
}

/// Closes the gate, and answers with a short body that says its end.
fn service(
    supervisor: &Supervisor,
    witness: &Witness,
    gate: &Gate,
    length: usize,
) -> impl Servable<
    Body = ResponseBody<Script>,
    Response = Response<ResponseBody<Script>>,
    Error = Infallible,
> {
    let (watching, gate) = (witness.clone(), gate.clone());
    BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            gate.allow(0);
            let body = Script::new([Step::data(vec![b'~'; length])]).tells_end();
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        },
    ))
}

/// A layer holds the body of the handler when the server ends the connection. h2 drops the socket
/// before it drops the frame.
#[tokio::test]
async fn http2_a_server_that_ends_the_connection() {
    let (supervisor, witness, gate) = (last_byte(), Witness::new(), Gate::open());
    let (stop, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let releasing = release.clone();
    let holding = service(&supervisor, &witness, &gate, 600).and_then(
        move |response: Response<ResponseBody<Script>>| {
            let release = release.clone();
            async move {
                let (head, mut body) = response.into_parts();
                let frame = body.frame().await.expect("there is one frame");
                let data = frame.expect("it does not fail").into_data();
                let data = data.expect("it is data");
                tokio::spawn(async move {
                    release.notified().await;
                    drop(body);
                });
                Ok::<_, Infallible>(Response::from_parts(head, Full::new(data)))
            }
        },
    );
    let server = gate.serve(supervisor, witness, stop.clone(), holding).await;
    let mut client = Raw::connect(server.address).await;
    client.send(http2_request(65_535)).await;
    until_deferred(&server, 1).await;
    settle().await;
    stop.notify_one();
    settle().await;
    soon(stop.notified()).await;
    assert_waits(&server, "the layer has the body").await;
    releasing.notify_one();
    assert_ends(&server, EndKind::Interrupted).await;
    assert_eq!(server.supervisor.open_responses(), 0);
}

/// h2 copies short pieces of data into its buffer.
#[tokio::test]
async fn http2_a_client_that_opens_its_window_in_small_steps() {
    let (supervisor, witness, gate) = (last_byte(), Witness::new(), Gate::open());
    let service = service(&supervisor, &witness, &gate, 4_000);
    let server = gate
        .serve(supervisor, witness, Arc::default(), service)
        .await;
    let mut client = Raw::connect(server.address).await;
    client.send(http2_request(0)).await;
    until_deferred(&server, 1).await;
    for _ in 0..20 {
        client.send(frame(8, 0, 1, &200_u32.to_be_bytes())).await;
        settle().await;
    }
    assert_waits(&server, "the socket takes nothing").await;
    gate.allow(usize::MAX);
    assert_ends(&server, EndKind::Complete).await;
    client.finish().await;
    let read = client.bytes().await;
    let data = String::from_utf8_lossy(&read).matches('~').count();
    assert_eq!(data, 4_000, "the client has all of it");
}

/// hyper offers 64 slices with one write.
#[tokio::test]
async fn http1_data_of_many_parts() {
    let (supervisor, witness, gate) = (last_byte(), Witness::new(), Gate::open());
    let (watching, closing) = (witness.clone(), gate.clone());
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            closing.allow(1);
            async {
                let parts = Script::new((0..200).map(|_| Step::data(vec![b'.'; 1_000])));
                let whole = parts.collect().await.expect("it is whole").aggregate();
                Ok::<_, Infallible>(Response::new(Full::new(whole)))
            }
        },
    ));
    let server = gate
        .serve(supervisor, witness, Arc::default(), service)
        .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    let head = client.until("\r\n\r\n").await.len();
    settle().await;
    drop(client);
    let end = server.witness.next().await.end;
    let (sent, data) = (
        end.bytes_sent().expect("it is tracked"),
        gate.taken() - head,
    );
    assert!(sent <= data as u64, "{sent} of {data} bytes are reported");
}
