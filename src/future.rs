//! [`ResponseFuture`]: carries a request's registry until the head of its response is ready.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{body::ResponseBody, lease::Lease};

pin_project! {
    /// The response future of [`Background`](crate::Background).
    ///
    /// Dropped before it is ready, it ends the response as [`End::Cancelled`](crate::End::Cancelled).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // Dropped before the lease, so that what this adds while it is dropped is still collected.
        #[pin]
        inner: F,
        lease: Lease,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            this.project().lease.enter_until_drop();
        }
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(crate) const fn new(inner: F, lease: Lease) -> Self {
        Self { inner, lease }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(open) = this.lease.get_mut() else {
            // A layer farther out has the lease; or this is polled after it was ready, which is the inner future's to answer.
            return this.inner.poll(cx).map_ok(|response| response.map(|body| ResponseBody::new(body, Lease::none())));
        };
        let entered = open.enter();
        // A response is large, and each move of it costs as much as what is noted of it: it gets its new type at once.
        let mut polled = this.inner.poll(cx).map_ok(|response| response.map(|body| ResponseBody::new(body, Lease::none())));
        entered.returned();
        match &mut polled {
            Poll::Pending => {}
            Poll::Ready(Ok(response)) => {
                let body = response.body().inner();
                let body = (body.size_hint().exact(), body.is_end_stream());
                if open.head(response.status(), response.version(), body) || !response.headers().is_empty() {
                    open.rest_of_head(response);
                }
                response.body_mut().hold(this.lease);
            }
            Poll::Ready(Err(_)) => std::mem::take(this.lease).service_failed(),
        }
        polled
    }
}
