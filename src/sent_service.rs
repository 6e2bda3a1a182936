//! [`SentService`]: sees what the server gets of the responses of a tracked connection.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    sent_body::SentBody,
    sent_connection::{SentConnectInfo, SentConnection},
    sent_guard::Hold,
    sent_waits::Key,
};

/// Tells requests of their tracked connection, and sees what the server gets of their responses. [`SentConnection`], as a layer,
/// makes it for one connection, [`SentLayer`] for all of a server. It belongs outside of all others.
#[derive(Debug, Clone)]
pub struct SentService<S> {
    inner: S,
    /// Nothing where each request has its own.
    connection: Option<SentConnection>,
}

impl<S> SentService<S> {
    /// The wrapped service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service.
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
        SentService { inner, connection: Some(self.clone()) }
    }
}

/// Sees what a server gets of a response where each request has its connection, a [`SentConnectInfo`], in its extensions, as on
/// tonic's server.
///
/// It is needed where a layer outside of [`BackgroundLayer`](crate::BackgroundLayer) changes the body, and belongs outside of
/// that. A request whose connection is not tracked passes through.
///
/// # Examples
///
/// ```
/// use tonic::transport::Server;
/// use tower_background::{BackgroundLayer, Release, SentLayer, Supervisor};
/// use tower_http::compression::CompressionLayer;
///
/// let supervisor = Supervisor::builder().release(Release::Sent).build();
/// let server = Server::builder()
///     .layer(SentLayer::new())
///     .layer(CompressionLayer::new())
///     .layer(BackgroundLayer::with(supervisor));
/// # drop(server);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SentLayer;

impl SentLayer {
    /// A layer for the whole server.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for SentLayer {
    type Service = SentService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SentService { inner, connection: None }
    }
}

/// By what a request finds its connection, and what the server will have of its response.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) connection: SentConnection,
    pub(crate) key: Option<Key>,
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
        let connection = self.connection.clone().or_else(|| SentConnectInfo::take(request.extensions_mut()));
        let hold = connection.as_ref().and_then(|connection| connection.hold(multiplexed));
        if let Some(connection) = connection {
            let key = hold.as_ref().map(|hold| hold.key);
            request.extensions_mut().insert(Tracked { connection, key });
        }
        let method = request.method().clone();
        SentFuture { inner: self.inner.call(request), hold, method, multiplexed }
    }
}

pin_project! {
    /// The future of [`SentService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct SentFuture<F> {
        // Dropped before the hold, so that what it ends is known when the server lets go.
        #[pin]
        inner: F,
        hold: Option<Hold>,
        method: Method,
        multiplexed: bool,
    }
}

impl<F, B, E> Future for SentFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<SentBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.hold.take().filter(Hold::is_claimed) {
            Some(hold) => SentBody::of(response, hold, this.method, *this.multiplexed),
            None => response.map(SentBody::passing),
        }))
    }
}
