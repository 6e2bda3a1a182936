//! A hyper server on a free port, for any service, that speaks HTTP/1.1 and HTTP/2 with prior
//! knowledge.

use std::{convert::Infallible, fmt::Debug, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tower::{Layer, Service, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasksExt, BoxError, Supervisor};

use super::{Witness, soon, witness::Course};

/// A service that a server can serve.
pub trait Servable:
    Service<
        Request<Incoming>,
        Response = Response<<Self as Servable>::Body>,
        Error: Into<BoxError>,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> Servable for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
}

/// Listens on a free port.
async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// A server that runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub supervisor: Supervisor,
    pub witness: Witness,
    stopping: Arc<Notify>,
    accept: JoinHandle<()>,
}

impl Server {
    /// Serves what `respond` answers, below the layer; each request leaves a witness's task.
    pub async fn new<F, B>(respond: F) -> Self
    where
        F: Fn(Request<Incoming>, Course) -> Response<B> + Clone + Send + Sync + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Self::with(Supervisor::new(), respond).await
    }

    pub async fn with<F, B>(supervisor: Supervisor, respond: F) -> Self
    where
        F: Fn(Request<Incoming>, Course) -> Response<B> + Clone + Send + Sync + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let witness = Witness::new();
        let watching = witness.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let tasks = request.background_tasks().expect("the layer is there");
            let response = respond(request, watching.watch(&tasks));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        Self::serve(
            BackgroundLayer::with_supervisor(supervisor.clone()).layer(service),
            supervisor,
            witness,
        )
        .await
    }

    /// Serves what `answer` comes to, below the layer: for handlers that wait, or fail.
    pub async fn awaiting<F, Fut, B, E>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>, Course) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let (supervisor, witness) = (Supervisor::new(), Witness::new());
        let watching = witness.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let tasks = request.background_tasks().expect("the layer is there");
            answer(request, watching.watch(&tasks))
        });
        Self::serve(
            BackgroundLayer::with_supervisor(supervisor.clone()).layer(service),
            supervisor,
            witness,
        )
        .await
    }

    /// Serves a router by axum's own server.
    pub async fn axum(router: axum::Router, supervisor: Supervisor, witness: Witness) -> Self {
        let (listener, address) = listen().await;
        let stopping = Arc::new(Notify::new());
        let stopped = stopping.clone();
        let accept = tokio::spawn(async move {
            let serving = axum::serve(listener, router)
                .with_graceful_shutdown(async move { stopped.notified().await });
            serving.await.expect("it serves until it is stopped");
        });
        Self {
            address,
            supervisor,
            witness,
            stopping,
            accept,
        }
    }

    /// Serves any service.
    pub async fn serve(service: impl Servable, supervisor: Supervisor, witness: Witness) -> Self {
        let (listener, address) = listen().await;
        let stopping = Arc::new(Notify::new());
        let stopped = stopping.clone();
        let accept = tokio::spawn(async move {
            let graceful = GracefulShutdown::new();
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("it listens").0,
                    () = stopped.notified() => break,
                };
                let _ = stream.set_nodelay(true);
                let builder = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service.clone());
                let connection = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .into_owned();
                let connection = graceful.watch(connection);
                connections.spawn(async move {
                    // How a connection ends is for the client of the test to look at.
                    let _ = connection.await;
                });
            }
            graceful.shutdown().await;
        });
        Self {
            address,
            supervisor,
            witness,
            stopping,
            accept,
        }
    }

    /// Serves each connection as the test does.
    pub async fn each<F, Fut>(supervisor: Supervisor, witness: Witness, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (listener, address) = listen().await;
        let accept = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                stream.set_nodelay(true).expect("it is a TCP stream");
                connections.spawn(serve(stream));
            }
        });
        Self::running(address, accept, supervisor, witness)
    }

    /// Runs the server that `serve` makes of a listener on a free port.
    pub async fn run<F, S, E>(supervisor: Supervisor, witness: Witness, serve: F) -> Self
    where
        F: FnOnce(TcpListener) -> S,
        S: IntoFuture<Output = Result<(), E>, IntoFuture: Send + 'static>,
        E: Debug,
    {
        let (listener, address) = listen().await;
        let serving = serve(listener).into_future();
        let accept = tokio::spawn(async move { serving.await.expect("the server runs") });
        Self::running(address, accept, supervisor, witness)
    }

    /// A server that the test has started itself, which this stops.
    pub fn running(
        address: SocketAddr,
        accept: JoinHandle<()>,
        supervisor: Supervisor,
        witness: Witness,
    ) -> Self {
        Self {
            address,
            supervisor,
            witness,
            stopping: Arc::default(),
            accept,
        }
    }

    /// Cuts all connections, as the end of the process would. axum's own server keeps those that
    /// are open.
    pub fn stop(&self) {
        self.accept.abort();
    }

    /// Accepts nothing more, lets the open connections end, and waits for it.
    pub async fn shut_down(&mut self) {
        self.stopping.notify_one();
        soon(&mut self.accept).await.expect("the server ends well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
