//! [`Background`]: the middleware.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{body::ResponseBody, future::ResponseFuture, lease::Lease, supervisor::Supervisor};

/// A service whose requests carry a task registry. [`BackgroundLayer`](crate::BackgroundLayer) makes it.
///
/// Readiness, errors and the response pass through unchanged.
///
/// # Examples
///
/// ```
/// use tower_background::{Background, Supervisor};
///
/// let service = Background::new("any service", Supervisor::new());
/// assert_eq!(service.get_ref(), &"any service");
/// ```
#[derive(Debug, Clone)]
pub struct Background<S> {
    inner: S,
    supervisor: Supervisor,
}

impl<S> Background<S> {
    /// Wraps a service.
    pub const fn new(inner: S, supervisor: Supervisor) -> Self {
        Self { inner, supervisor }
    }

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

    /// The supervisor that owns the tasks.
    pub const fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
}

impl<S, Req, Res> Service<Request<Req>> for Background<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Body,
{
    type Response = Response<ResponseBody<Res>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let mut lease = Lease::open(&self.supervisor, &mut request);
        let future = lease.run(|| self.inner.call(request));
        ResponseFuture::new(future, lease)
    }
}
