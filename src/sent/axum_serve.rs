//! axum: [`serve`], whose connections are tracked.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    serve::{IncomingStream, Listener, ListenerExt, Serve, TapIo},
};
use http::{Request, Response};
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::{Layer, Service};

use super::{
    connection::SentConnection,
    service::{SentFuture, SentService},
    stream::SentStream,
};

/// Serves an axum app as `axum::serve` does, on tracked connections, for
/// [`StartOn::LastByteSent`](crate::StartOn::LastByteSent).
///
/// It takes a `Router`, or the result of its `into_make_service` or
/// `into_make_service_with_connect_info`. It returns the same type as `axum::serve`, so you can
/// await it or call `with_graceful_shutdown`.
///
/// Handlers can extract the `ConnectInfo` of the listener's address type: `SocketAddr` over TCP. To
/// give handlers more than that, write an `axum::serve::Listener` with another address type.
///
/// # Examples
///
/// ```
/// use axum::Router;
/// use tower_background::{BackgroundLayer, StartOn, Supervisor, sent};
///
/// async fn serve(router: Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
///     let supervisor = Supervisor::builder().start_on(StartOn::LastByteSent).build();
///     let app = router.layer(BackgroundLayer::with_supervisor(supervisor));
///     sent::serve(listener, app).await
/// }
/// # let _ = serve;
/// ```
pub fn serve<L, M, S>(
    listener: L,
    make_service: M,
) -> Serve<SentIncoming<L>, SentMakeService<M>, SentRouter<S>>
where
    L: Listener,
    M: for<'a> Service<IncomingStream<'a, SentIncoming<L>>, Error = Infallible, Response = S>,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    // Handlers need `Connected` to extract `ConnectInfo`, and axum implements it only for its own
    // listeners and for `TapIo`. So the listener is wrapped in a `TapIo` that does nothing.
    let tap: fn(&mut SentStream<L::Io>) = |_| ();
    let listener = SentListener { inner: listener }.tap_io(tap);
    axum::serve(
        listener,
        SentMakeService {
            inner: make_service,
        },
    )
}

/// The listener of [`serve`].
pub type SentIncoming<L> = TapIo<SentListener<L>, fn(&mut SentStream<<L as Listener>::Io>)>;

/// A listener whose connections are tracked. [`serve`] creates it.
#[derive(Debug)]
pub struct SentListener<L> {
    inner: L,
}

impl<L: Listener> Listener for SentListener<L> {
    type Io = SentStream<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.inner.accept().await;
        (SentStream::new(stream), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// Creates the services of tracked connections. [`serve`] creates it.
#[derive(Debug, Clone)]
pub struct SentMakeService<M> {
    inner: M,
}

impl<'a, L, T, M> Service<IncomingStream<'a, L>> for SentMakeService<M>
where
    L: Listener<Io = SentStream<T>>,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M: Service<IncomingStream<'a, L>>,
{
    type Response = SentRouter<M::Response>;
    type Error = M::Error;
    type Future = SentMakeFuture<M::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, stream: IncomingStream<'a, L>) -> Self::Future {
        let connection = stream.io().connection();
        SentMakeFuture {
            inner: self.inner.call(stream),
            connection,
        }
    }
}

/// The future of [`SentMakeService`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct SentMakeFuture<F> {
    #[pin]
    inner: F,
    connection: SentConnection,
}

impl<F: Future<Output = Result<S, E>>, S, E> Future for SentMakeFuture<F> {
    type Output = Result<SentRouter<S>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let service = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(SentRouter {
            inner: this.connection.layer(service),
        }))
    }
}

/// The service of one tracked connection of [`serve`]: a [`SentService`] with axum's body type.
#[derive(Debug, Clone)]
pub struct SentRouter<S> {
    inner: SentService<S>,
}

impl<S, B> Service<Request<B>> for SentRouter<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = SentRouterFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        SentRouterFuture {
            inner: self.inner.call(request),
        }
    }
}

/// The response future of [`SentRouter`].
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct SentRouterFuture<F> {
    #[pin]
    inner: SentFuture<F>,
}

impl<F: Future<Output = Result<Response<Body>, E>>, E> Future for SentRouterFuture<F> {
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().inner.poll(cx))?;
        Poll::Ready(Ok(response.map(Body::new)))
    }
}
