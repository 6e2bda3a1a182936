//! The layer works around a client service: the response comes from a real server, and ends when
//! the caller has read it.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_background::{BackgroundLayer, BackgroundTasksExt, EndKind, Supervisor};

use crate::common::{Script, Server, Step, Witness, soon};

/// A request by a client with our layer outermost, below which each request leaves a task.
async fn call(
    server: &Server,
    supervisor: &Supervisor,
    witness: &Witness,
    version: Version,
) -> Response<tower_background::middleware::ResponseBody<hyper::body::Incoming>> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(version == Version::HTTP_2)
        .build_http::<Empty<Bytes>>();
    let watching = witness.clone();
    let mut service = ServiceBuilder::new()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .map_request(move |request: Request<Empty<Bytes>>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            request
        })
        .service(client);
    let request = Request::builder()
        .uri(format!("http://{}/path", server.address))
        .version(version)
        .body(Empty::new());
    let ready = service.ready().await.expect("a client is always ready");
    soon(ready.call(request.expect("it is one")))
        .await
        .expect("the server answers")
}

async fn three_chunks() -> Server {
    Server::new(|_, course| {
        let steps = [Step::data("one"), Step::data("two"), Step::data("three")];
        Response::builder()
            .status(StatusCode::CREATED)
            .body(Script::new(steps).seen_by(course.expect_body()))
            .expect("it is one")
    })
    .await
}

#[tokio::test]
async fn a_response_that_is_read_to_its_end() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (server, supervisor, witness) =
            (three_chunks().await, Supervisor::new(), Witness::new());
        let response = call(&server, &supervisor, &witness, version).await;
        assert_eq!(supervisor.stats().deferred, 1, "the caller has not read it");
        assert_eq!(
            soon(response.into_body().collect())
                .await
                .expect("a good body")
                .to_bytes(),
            "onetwothree"
        );
        let seen = witness.next().await;
        assert_eq!(
            (seen.end.kind(), seen.end.bytes(), seen.end.version()),
            (EndKind::Complete, 11, version)
        );
        assert_eq!(
            (seen.end.status(), seen.end.path()),
            (Some(StatusCode::CREATED), "/path")
        );
    }
}

#[tokio::test]
async fn a_response_that_is_dropped_unread() {
    let (server, supervisor, witness) = (three_chunks().await, Supervisor::new(), Witness::new());
    drop(call(&server, &supervisor, &witness, Version::HTTP_11).await);
    assert_eq!(witness.next().await.end.kind(), EndKind::Interrupted);
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let server = three_chunks().await;
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let watching = witness.clone();
    let service = BackgroundLayer::with_supervisor(supervisor).layer(client.map_request(
        move |request: Request<Empty<Bytes>>| {
            watching.watch(&request.background_tasks().expect("the layer is there"));
            request
        },
    ));
    let closed = server.address;
    drop(server);
    let request = Request::builder()
        .uri(format!("http://{closed}/"))
        .body(Empty::new())
        .expect("it is one");
    soon(async { while tokio::net::TcpStream::connect(closed).await.is_ok() {} }).await;
    assert!(soon(service.oneshot(request)).await.is_err());
    assert_eq!(witness.next().await.end.kind(), EndKind::ServiceError);
}
