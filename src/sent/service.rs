//! [`SentService`]: tells requests which connection they came over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, Version};
use http_body::Body;
use pin_project::pin_project;
use tower::{Layer, Service};

use super::{
    body::{Followed, SentBody},
    connect_info::SentConnectInfo,
    connection::SentConnection,
    delivery::track,
    guard::{InFlight, TrackedResponse},
};

/// Tells requests which tracked connection they came over, and sees the responses that the server
/// gets.
///
/// The layer [`SentConnection`] creates it for one connection. The layer [`SentLayer`] creates it
/// for all connections of a server.
#[derive(Debug, Clone)]
pub struct SentService<S> {
    inner: S,
    /// `None` if each request has its connection in its extensions.
    connection: Option<SentConnection>,
}

impl<S> SentService<S> {
    /// Returns the wrapped service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the wrapped service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Unwraps the service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> Layer<S> for SentConnection {
    type Service = SentService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SentService {
            inner,
            connection: Some(self.clone()),
        }
    }
}

/// Tells requests which tracked connection they came over, if they have a [`SentConnectInfo`] in
/// their extensions. On tonic's server they have it.
///
/// Add it outside all other layers. A request without a `SentConnectInfo` passes through.
///
/// # Examples
///
/// ```
/// use tonic::transport::Server;
/// use tower_background::{BackgroundLayer, StartOn, Supervisor, sent::SentLayer};
///
/// let supervisor = Supervisor::builder().start_on(StartOn::LastByteSent).build();
/// let server = Server::builder()
///     .layer(SentLayer::new())
///     .layer(BackgroundLayer::with_supervisor(supervisor));
/// # drop(server);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SentLayer;

impl SentLayer {
    /// Creates a layer for all connections of a server.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for SentLayer {
    type Service = SentService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SentService {
            inner,
            connection: None,
        }
    }
}

impl<S, Req, Res> Service<Request<Req>> for SentService<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Body,
{
    type Response = Response<SentBody<Res>>;
    type Error = S::Error;
    type Future = SentFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let multiplexed = request.version() >= Version::HTTP_2;
        let connection = self
            .connection
            .clone()
            .or_else(|| SentConnectInfo::take(request.extensions_mut()));
        let in_flight = connection.map(|connection| {
            let method = request.method().clone();
            let response = TrackedResponse::new(connection.state, method, multiplexed);
            let response = Arc::new(response);
            track(request.extensions_mut(), Arc::clone(&response));
            InFlight::new(response)
        });
        SentFuture {
            inner: self.inner.call(request),
            in_flight,
        }
    }
}

/// The response future of [`SentService`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct SentFuture<F> {
    // Dropped before `in_flight`, so that the end of the inner response is known when the server
    // drops this future.
    #[pin]
    inner: F,
    in_flight: Option<InFlight>,
}

impl<F, B, E> Future for SentFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<SentBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A response is large to move, so this only moves it into its new type.
        let mut polled = this.inner.poll(cx);
        let mut followed = None;
        if let Poll::Ready(Ok(response)) = &mut polled {
            let in_flight = this.in_flight.take();
            followed = in_flight.map(|in_flight| Followed::new(response, in_flight));
        }
        polled.map_ok(|response| response.map(|body| SentBody::new(body, followed)))
    }
}
