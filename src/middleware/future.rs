//! [`ResponseFuture`]: waits for the head of a response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use super::{body::ResponseBody, tracker::ResponseTracker};

/// The response future of [`Background`](crate::middleware::Background).
///
/// If it is dropped before it is ready, the response ends as
/// [`EndKind::NoResponse`](crate::EndKind::NoResponse).
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F> {
    // Dropped before the tracker, so that tasks which its drop adds still wait for the end.
    #[pin]
    inner: F,
    tracker: ResponseTracker,
}

impl<F> ResponseFuture<F> {
    pub(super) const fn new(inner: F, tracker: ResponseTracker) -> Self {
        Self { inner, tracker }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A response is large to move, so its body gets the new type at once, and the tracker
        // later.
        let user_code = this.tracker.enter();
        let mut polled = this.inner.poll(cx).map_ok(|response| {
            response.map(|body| ResponseBody::new(body, ResponseTracker::none()))
        });
        user_code.returned();
        match &mut polled {
            Poll::Pending => {}
            Poll::Ready(Ok(response)) => {
                let body = response.body().inner();
                let observe = || (body.size_hint().exact(), body.is_end_stream());
                let (exact_size, at_end) = this.tracker.observe(observe);
                this.tracker.note_head(response, exact_size, at_end);
                response
                    .body_mut()
                    .set_tracker(std::mem::take(this.tracker));
            }
            Poll::Ready(Err(_)) => std::mem::take(this.tracker).service_failed(),
        }
        polled
    }
}
