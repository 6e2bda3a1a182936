//! gRPC: how responses end with tonic on both sides.

use std::{convert::Infallible, future::pending, pin::Pin, sync::Arc, time::Duration};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use http::{Request, Response, Uri, uri::PathAndQuery};
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, server::Router},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower::{
    Layer, Service, ServiceBuilder,
    util::{MapRequestLayer, MapResponseLayer},
};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Supervisor, middleware::Background,
};

use crate::{
    common::{Around, Course, Server, Witness, soon},
    table::check,
};

/// What a handler is told to do, by the name of the service that it is asked for.
const DENIED: &str = "denied";
const HANGS: &str = "hangs";
const ENDS: &str = "ends";
const FAILS: &str = "fails";

/// A health service whose every answer leaves a witness.
#[derive(Clone)]
struct Scripted {
    witness: Witness,
    /// Lets a stream go on after its first message.
    go: Arc<Notify>,
}

const fn healthy() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    }
}

/// Hands the body's course to the layer that watches bodies.
fn answer<T>(message: T, course: Course) -> tonic::Response<T> {
    let mut response = tonic::Response::new(message);
    response.extensions_mut().insert(course);
    response
}

#[tonic::async_trait]
impl Health for Scripted {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let tasks = request.background_tasks()?;
        let course = self.witness.watch(&tasks);
        match request.get_ref().service.as_str() {
            DENIED => Err(Status::not_found("no such service")),
            HANGS => pending().await,
            _ => Ok(answer(healthy(), course)),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let course = self
            .witness
            .watch(&BackgroundTasks::current().ok_or_else(|| Status::internal("no registry"))?);
        let Self { go, .. } = self.clone();
        let service = request.into_inner().service;
        let stream = stream! {
            yield Ok(healthy());
            if service == HANGS {
                pending::<()>().await;
            }
            go.notified().await;
            if service == FAILS {
                yield Err(Status::data_loss("the disk is gone"));
            } else {
                yield Ok(healthy());
                // An empty message, as its only field has the default value.
                yield Ok(HealthCheckResponse { status: ServingStatus::Unknown as i32 });
            }
        };
        Ok(answer(Box::pin(stream), course))
    }
}

/// Watches the body of a response whose handler has left the course of it.
fn watch_body<B>(mut response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<tower_background::BoxError>>
        + Send
        + 'static,
{
    match response.extensions_mut().remove::<Course>() {
        Some(course) => response.map(|body| Body::new(Around::new(body, &course))),
        None => response.map(Body::new),
    }
}

fn scripted() -> (Scripted, Supervisor) {
    (
        Scripted {
            witness: Witness::new(),
            go: Arc::new(Notify::new()),
        },
        Supervisor::new(),
    )
}

/// Serves the health service below the layer, in the way of a whole server.
async fn serve(
    builder: tonic::transport::Server,
    health: &Scripted,
    supervisor: Supervisor,
) -> Server {
    let layer = ServiceBuilder::new()
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .layer(MapResponseLayer::new(watch_body));
    let router = builder
        .layer(layer)
        .add_service(HealthServer::new(health.clone()));
    run(router, health.witness.clone(), supervisor).await
}

async fn run<L, B>(router: Router<L>, witness: Witness, supervisor: Supervisor) -> Server
where
    L: Layer<tonic::service::Routes> + Clone + Send + 'static,
    L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    <L::Service as Service<Request<Body>>>::Future: Send,
    <L::Service as Service<Request<Body>>>::Error: Into<tower_background::BoxError> + Send,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<tower_background::BoxError>>
        + Send
        + 'static,
{
    Server::run(supervisor, witness, |listener| {
        router.serve_with_incoming(TcpListenerStream::new(listener))
    })
    .await
}

/// Serves with tonic's defaults. The second value lets a stream go on after its first message.
async fn served() -> (Server, Arc<Notify>) {
    let (health, supervisor) = scripted();
    (
        serve(tonic::transport::Server::builder(), &health, supervisor).await,
        health.go,
    )
}

async fn connect(server: &Server) -> Channel {
    let uri: Uri = format!("http://{}", server.address)
        .parse()
        .expect("an address is a URI");
    soon(Channel::builder(uri).connect())
        .await
        .expect("the server listens")
}

async fn client(server: &Server) -> HealthClient<Channel> {
    HealthClient::new(connect(server).await)
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

/// Makes a unary call, and checks its answer.
async fn assert_healthy(server: &Server) {
    let response = soon(client(server).await.check(ask(ENDS)))
        .await
        .expect("it is healthy");
    assert_eq!(response.into_inner(), healthy());
}

#[tokio::test]
async fn unary() {
    let (server, _) = served().await;
    assert_healthy(&server).await;
    check(&server, "gRPC", "unary").await;
}

/// tonic puts the layer around one service only if it forwards the service's name.
#[tokio::test]
async fn unary_below_a_layer_of_the_service() {
    let (health, supervisor) = scripted();
    let service: Background<_> = BackgroundLayer::with_supervisor(supervisor.clone())
        .layer(HealthServer::new(health.clone()));
    let server = run(
        tonic::transport::Server::builder().add_service(service),
        health.witness,
        supervisor,
    )
    .await;
    assert_healthy(&server).await;
    check(&server, "gRPC", "unary").await;
}

#[tokio::test]
async fn unary_error() {
    let (server, _) = served().await;
    let status = soon(client(&server).await.check(ask(DENIED)))
        .await
        .expect_err("it is denied");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "no such service")
    );
    check(&server, "gRPC", "unary error (trailers-only)").await;
}

/// Reads a stream's first message, and sees that its task waits for the end.
async fn first_message(server: &Server, service: &str) -> tonic::Streaming<HealthCheckResponse> {
    let mut stream = soon(client(server).await.watch(ask(service)))
        .await
        .expect("it streams")
        .into_inner();
    assert_eq!(
        soon(stream.next())
            .await
            .expect("a message")
            .expect("a good one"),
        healthy()
    );
    let stats = server.supervisor.stats();
    assert_eq!((stats.added(), stats.deferred), (1, 1), "{stats:?}");
    stream
}

#[tokio::test]
async fn server_stream() {
    let (server, go) = served().await;
    let stream = first_message(&server, ENDS).await;
    go.notify_one();
    let rest: Vec<_> = soon(stream.map(|message| message.expect("a good one")).collect()).await;
    assert_eq!(
        rest,
        [
            healthy(),
            HealthCheckResponse {
                status: ServingStatus::Unknown as i32
            }
        ]
    );
    check(&server, "gRPC", "server stream").await;
}

#[tokio::test]
async fn server_stream_that_ends_with_an_error() {
    let (server, go) = served().await;
    let mut stream = first_message(&server, FAILS).await;
    go.notify_one();
    let status = soon(stream.next())
        .await
        .expect("a status")
        .expect_err("an error");
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "the disk is gone")
    );
    check(&server, "gRPC", "server stream that ends with an error").await;
}

#[tokio::test]
async fn client_cancels_mid_stream() {
    let (server, _) = served().await;
    drop(first_message(&server, HANGS).await);
    check(&server, "gRPC", "client cancels mid-stream").await;
}

/// Leaves a witness where no handler is reached.
fn witnessed<B>(witness: Witness) -> MapRequestLayer<impl Fn(Request<B>) -> Request<B> + Clone> {
    MapRequestLayer::new(move |request: Request<B>| {
        witness.watch(&request.background_tasks().expect("the layer is there"));
        request
    })
}

/// Calls a method by a path that the generated client does not know.
async fn call(server: &Server, path: &'static str) -> Status {
    let channel = ServiceBuilder::new()
        .map_request(move |mut request: Request<Body>| {
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static(path));
            *request.uri_mut() = Uri::from_parts(parts).expect("a path makes a URI");
            request
        })
        .service(connect(server).await);
    soon(HealthClient::new(channel).check(ask(ENDS)))
        .await
        .expect_err("there is no such method")
}

#[tokio::test]
async fn unimplemented_method() {
    // For an unknown method a known service answers by itself. For an unknown service the server
    // answers.
    for path in ["/grpc.health.v1.Health/Heal", "/grpc.health.v1.Doctor/Heal"] {
        let (health, supervisor) = scripted();
        let layer = ServiceBuilder::new()
            .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
            .layer(witnessed(health.witness.clone()));
        let router = tonic::transport::Server::builder()
            .layer(layer)
            .add_service(HealthServer::new(health.clone()));
        let server = run(router, health.witness, supervisor).await;
        assert_eq!(
            call(&server, path).await.code(),
            Code::Unimplemented,
            "{path}"
        );
        check(&server, "gRPC", "unimplemented method").await;
    }
}

/// tonic's own timeout is outside all layers. It drops the response future, and answers
/// `CANCELLED`.
#[tokio::test]
async fn deadline() {
    let (health, supervisor) = scripted();
    let builder = tonic::transport::Server::builder().timeout(Duration::from_millis(10));
    let server = serve(builder, &health, supervisor).await;
    let status = soon(client(&server).await.check(ask(HANGS)))
        .await
        .expect_err("it takes too long");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Cancelled, "Timeout expired")
    );
    check(&server, "gRPC", "deadline").await;
}

/// A request that a handler meets without the layer is the server's fault, and says so.
#[tokio::test]
async fn without_the_layer() {
    let (health, supervisor) = scripted();
    let router = tonic::transport::Server::builder().add_service(HealthServer::new(health.clone()));
    let server = run(router, health.witness, supervisor).await;
    let status = soon(client(&server).await.check(ask(ENDS)))
        .await
        .expect_err("there is no layer");
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(status.message(), "the server is misconfigured");
    assert_eq!(server.supervisor.stats().added(), 0);
}

const _: fn() = || {
    fn is_infallible<S: Service<Request<Body>, Error = Infallible>>() {}
    // tonic asks this of a service; the layer passes errors through.
    is_infallible::<Background<HealthServer<Scripted>>>();
};
