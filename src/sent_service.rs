//! [`SentService`]: the service of one tracked connection.

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
    sent_connection::{Hold, SentConnection},
    sent_waits::Key,
};

/// The service of one tracked connection: tells requests of the connection, and sees what the server gets of their responses.
/// [`SentConnection`], as a layer, makes it, and it belongs outside of all others.
#[derive(Debug, Clone)]
pub struct SentService<S> {
    inner: S,
    connection: SentConnection,
}

impl<S> SentService<S> {
    /// The wrapped service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S> Layer<S> for SentConnection {
    type Service = SentService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SentService { inner, connection: self.clone() }
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
        let (hold, method) = (self.connection.hold(multiplexed), request.method().clone());
        let key = hold.as_ref().map(|hold| hold.key);
        request.extensions_mut().insert(Tracked { connection: self.connection.clone(), key });
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
