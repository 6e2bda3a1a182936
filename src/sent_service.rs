//! [`SentService`]: the service of one tracked connection.

use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::sent_connection::SentConnection;

/// The service of one tracked connection: puts the connection into the extensions of each request.
/// [`SentConnection`], as a layer, makes it.
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

impl<S, B> Service<Request<B>> for SentService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.connection.clone());
        self.inner.call(request)
    }
}
