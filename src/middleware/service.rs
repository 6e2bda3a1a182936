//! [`Background`]: the service.

use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    backpressure::Backpressure, body::ResponseBody, future::ResponseFuture,
    tracker::ResponseTracker,
};
use crate::supervisor::Supervisor;

/// The service that [`BackgroundLayer`](crate::BackgroundLayer) creates.
///
/// Readiness, errors and the response pass through unchanged. With
/// [`max_pending`](crate::SupervisorBuilder::max_pending) the service is only ready while there are
/// fewer tasks than that.
///
/// # Examples
///
/// ```
/// use tower_background::{Supervisor, middleware::Background};
///
/// let service = Background::new("any service", Supervisor::new());
/// assert_eq!(service.get_ref(), &"any service");
/// ```
#[derive(Debug, Clone)]
pub struct Background<S> {
    inner: S,
    supervisor: Supervisor,
    backpressure: Backpressure,
}

impl<S> Background<S> {
    /// Wraps a service.
    pub fn new(inner: S, supervisor: Supervisor) -> Self {
        Self {
            inner,
            supervisor,
            backpressure: Backpressure::default(),
        }
    }

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

    /// Returns the supervisor that owns the tasks.
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
        // First, so that nothing that the inner service reserves when it is ready is held while
        // this waits.
        ready!(self.backpressure.poll(&self.supervisor, cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let mut tracker = ResponseTracker::open(&self.supervisor, &mut request);
        let user_code = tracker.enter();
        let inner = self.inner.call(request);
        user_code.returned();
        ResponseFuture::new(inner, tracker)
    }
}
