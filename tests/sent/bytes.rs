//! `ResponseEnd::bytes_sent` never reports more bytes than the socket took.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio_util::io::InspectWriter;
use tower::{Layer, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, BoxError, EndKind, Task, When, sent::SentStream,
};

use super::tracked::last_byte;
use crate::common::{
    Multiplexed, Raw, Script, Server, Step, Witness, data, rest, settle, soon, unreleased_data,
};

const LARGE: usize = 16 << 20;

/// Serves bodies on tracked connections, and counts the bytes that the sockets take.
async fn serve<B>(taken: Arc<AtomicUsize>, body: fn(&str) -> B) -> Server
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let (supervisor, witness) = (last_byte(), Witness::new());
    let watching = witness.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        move |request: Request<Incoming>| {
            let tasks = request.background_tasks().expect("the layer is there");
            watching.watch(&tasks);
            if request.uri().path() == "/conditions" {
                for condition in [
                    When::Responded,
                    When::Success,
                    When::Complete,
                    When::Delivered,
                ] {
                    tasks.add(Task::new(async {}).when(condition));
                }
            }
            let mut response = Response::new(body(request.uri().path()));
            if request.uri().path() == "/declared" {
                response
                    .headers_mut()
                    .insert("content-length", LARGE.into());
            }
            std::future::ready(Ok::<_, Infallible>(response))
        },
    ));
    Server::each(supervisor, witness, move |stream| {
        let taken = taken.clone();
        let stream = InspectWriter::new(stream, move |bytes: &[u8]| {
            taken.fetch_add(bytes.len(), SeqCst);
        });
        let stream = SentStream::new(stream);
        let service = TowerToHyperService::new(stream.connection().layer(service.clone()));
        async move {
            // The client of the test checks how a connection ends.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

fn large(path: &str) -> Script {
    let large = || Step::data(vec![b'.'; LARGE]);
    let half = || Step::data(vec![b'.'; LARGE / 2]);
    match path {
        "/full" | "/conditions" => Script::new([large()]).sized(LARGE as u64).tells_end(),
        "/declared" => Script::new([half(), half(), Step::data("surplus")]),
        "/unfinished" => Script::new([half(), half(), Step::Hang]),
        "/stream" => Script::new([half(), half()]),
        _ => unreachable!("the tests request no other path"),
    }
}

#[tokio::test]
async fn http1_clients_that_leave() {
    let taken = Arc::<AtomicUsize>::default();
    let server = serve(taken.clone(), large).await;
    // How many bytes the framing of the chunks can have. They count as missing data.
    for (path, framing) in [
        ("/full", 0),
        ("/declared", 0),
        ("/stream", 25),
        ("/unfinished", 25),
    ] {
        let before = taken.load(SeqCst);
        let mut client = Raw::narrow(server.address).await;
        client.get(path).await;
        let head = client.until("\r\n\r\n").await.len();
        settle().await;
        client.reset();
        let end = server.witness.next().await.end;
        assert_eq!(end.kind(), EndKind::Interrupted);
        let (sent, taken) = (
            end.bytes_sent().expect("it is tracked"),
            (taken.load(SeqCst) - before - head) as u64,
        );
        assert!(
            taken > 0 && taken < LARGE as u64,
            "{path}: the client has stalled, and {taken} bytes were taken"
        );
        assert!(
            sent <= taken && sent + framing >= taken,
            "{path}: {sent} of the {taken} bytes that were taken are reported"
        );
        assert!(end.bytes() >= LARGE as u64 / 2, "{path}: {end:?}");
    }
}

/// The server has all of the body when the connection dies, but the socket does not.
#[tokio::test]
async fn conditions_are_judged_by_what_the_socket_took() {
    let server = serve(Arc::default(), large).await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/conditions").await;
    client.until("\r\n\r\n").await;
    settle().await;
    client.reset();
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Interrupted);
    soon(server.supervisor.idle()).await;
    let stats = server.supervisor.stats();
    assert_eq!(
        (stats.succeeded, stats.skipped),
        (3, 2),
        "`Complete` and `Delivered` are skipped"
    );

    // The data waits for a window that never opens.
    let mut client = Multiplexed::connect(&server).await;
    drop(client.get("/conditions").await);
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Interrupted);
    soon(server.supervisor.idle()).await;
    assert_eq!(
        (
            server.supervisor.stats().succeeded,
            server.supervisor.stats().skipped
        ),
        (6, 4)
    );

    let mut client = Raw::connect(server.address).await;
    client.get_last("/conditions").await;
    assert!(client.rest().await.len() > LARGE);
    assert_eq!(server.witness.next().await.end.kind(), EndKind::Complete);
    soon(server.supervisor.idle()).await;
    assert_eq!(
        (
            server.supervisor.stats().succeeded,
            server.supervisor.stats().skipped
        ),
        (11, 4),
        "the socket took all of it"
    );
}

#[tokio::test]
async fn http1_clients_that_read_slowly_and_leave() {
    let taken = Arc::<AtomicUsize>::default();
    let server = serve(taken.clone(), large).await;
    let mut client = Raw::narrow(server.address).await;
    client.get("/full").await;
    let head = client.until("\r\n\r\n").await.len();
    for _ in 0..100 {
        client.until(".").await;
        assert_eq!(server.supervisor.stats().deferred, 1);
    }
    client.reset();
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.bytes_sent()),
        (
            EndKind::Interrupted,
            Some((taken.load(SeqCst) - head) as u64)
        )
    );
}

#[tokio::test]
async fn whole_responses() {
    let server = serve(Arc::default(), large).await;
    for path in ["/full", "/declared", "/stream"] {
        let mut client = Raw::connect(server.address).await;
        client.get_last(path).await;
        assert!(client.rest().await.len() > LARGE);
        let end = server.witness.next().await.end;
        assert_eq!(
            (end.kind(), end.bytes_sent()),
            (EndKind::Complete, Some(LARGE as u64)),
            "{path}"
        );
    }
    let mut client = Multiplexed::connect(&server).await;
    for path in ["/full", "/stream"] {
        rest(client.get(path).await.body_mut())
            .await
            .expect("the response is whole");
        let end = server.witness.next().await.end;
        assert_eq!(
            (end.kind(), end.bytes_sent()),
            (EndKind::Complete, Some(LARGE as u64)),
            "{path}"
        );
    }
}

/// Returns a body of three chunks. h2 copies short chunks, and keeps long ones.
fn chunks(path: &str) -> Script {
    let (path, length) = path.rsplit_once('/').expect("the path has a length");
    let length: usize = length.parse().expect("the length is a number");
    let steps = (0..3).map(|_| Step::data(vec![b'.'; length]));
    match path {
        "/full" => Script::new(steps).tells_end(),
        "/trailers" => Script::new(steps.chain([Step::trailer("grpc-status", "0")])),
        "/unfinished" => Script::new(steps.chain([Step::Hang])),
        _ => unreachable!("the tests request no other path"),
    }
}

#[tokio::test]
async fn http2_clients_that_reset_or_leave() {
    let server = serve(Arc::default(), chunks).await;
    for length in [10_u32, 5_000] {
        for (window, known) in [
            (0, 0),
            (length / 2, 0),
            (length, length),
            (length * 5 / 2, 2 * length),
        ] {
            for path in ["/full", "/trailers", "/unfinished"] {
                for leave in [false, true] {
                    let mut client = Multiplexed::with_window(&server, window).await;
                    let (response, mut stream) = client
                        .send(http::Method::GET, &format!("{path}/{length}"))
                        .await;
                    let mut response = soon(response).await.expect("there is a head");
                    let mut read = 0;
                    while read < window as usize {
                        read += unreleased_data(response.body_mut()).await.len();
                    }
                    settle().await;
                    if leave {
                        client.leave().await;
                    } else {
                        stream.send_reset(h2::Reason::CANCEL);
                    }
                    let end = server.witness.next().await.end;
                    let case =
                        format!("{path}, window of {window}, chunks of {length}, leaves: {leave}");
                    assert_eq!(
                        (end.kind(), end.bytes_sent()),
                        (EndKind::Interrupted, Some(u64::from(known))),
                        "{case}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn data_that_can_have_no_guard() {
    let server = serve(Arc::default(), |path| match path {
        "/" => Either::Left(Full::new(VecDeque::from(vec![b'.'; 100]))),
        _ => Either::Right(Full::new(VecDeque::new())),
    })
    .await;
    let mut client = Multiplexed::with_window(&server, 1).await;
    let mut response = client.get("/").await;
    assert!(data(response.body_mut()).await.is_some());
    client.leave().await;
    let end = server.witness.next().await.end;
    assert_eq!(end.bytes_sent(), None, "{end:?}");

    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until(&".".repeat(100)).await;
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.bytes_sent()),
        (EndKind::Complete, Some(100))
    );
}

#[tokio::test]
async fn connections_that_are_not_tracked() {
    let supervisor = last_byte();
    let server = Server::with(supervisor, |_, _| {
        Response::new(Full::<Bytes>::from("hello").boxed())
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("hello").await;
    let end = server.witness.next().await.end;
    assert_eq!(
        (end.kind(), end.bytes(), end.bytes_sent()),
        (EndKind::Complete, 5, None)
    );
}

#[tokio::test]
async fn http2_clients_that_stay_silent() {
    let server = serve(Arc::default(), chunks).await;
    let mut client = Multiplexed::connect(&server).await;
    for path in ["/full/5000", "/full/10", "/trailers/5000", "/full/300"] {
        let response = client.get(path).await;
        let end = server.witness.next().await.end;
        assert_eq!(
            (end.kind(), end.bytes_sent()),
            (EndKind::Complete, Some(end.bytes())),
            "{path}"
        );
        drop(response);
    }
}
