//! [`Background`]: the middleware.

use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    body::ResponseBody,
    future::ResponseFuture,
    lease::{Lease, Open, UserCode},
    room::Room,
    supervisor::Supervisor,
};

/// A service whose requests carry a task registry. [`BackgroundLayer`](crate::BackgroundLayer) makes it.
///
/// Readiness, errors and the response pass through unchanged; with a limit on pending tasks
/// ([`max_pending`](crate::SupervisorBuilder::max_pending)) the service is ready when there is room.
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
    room: Room,
}

impl<S> Background<S> {
    /// Wraps a service.
    pub fn new(inner: S, supervisor: Supervisor) -> Self {
        Self { inner, supervisor, room: Room::default() }
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

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // First of all, so that nothing that the inner service sets aside when it is ready is held meanwhile.
        ready!(self.room.poll(&self.supervisor, cx));
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let mut lease = Lease::open(&self.supervisor, &mut request);
        let entered = lease.get_mut().map(Open::enter);
        let future = self.inner.call(request);
        entered.into_iter().for_each(UserCode::returned);
        ResponseFuture::new(future, lease)
    }
}
