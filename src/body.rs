//! [`ResponseBody`]: sees how a response ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::lease::{Lease, Open};

pin_project! {
    /// The response body of [`Background`](crate::Background): the inner one, frame by frame.
    ///
    /// The response is over, and its tasks start, when this body returns `None` or is dropped, whichever is first. A server
    /// need not poll a body to `None` and often does not, so the end is noted when it is seen: see [`End`](crate::End). With
    /// [`Release::Sent`](crate::Release::Sent) its drop counts, and what becomes of the response after that.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        // Dropped before the lease, so that what this adds while it is dropped is still collected.
        #[pin]
        inner: B,
        lease: Lease,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            this.project().lease.enter_until_drop();
        }
    }
}

impl<B> ResponseBody<B> {
    pub(crate) const fn new(inner: B, lease: Lease) -> Self {
        Self { inner, lease }
    }

    pub(crate) const fn inner(&self) -> &B {
        &self.inner
    }

    /// Takes the lease of the response over; there was none.
    #[inline]
    pub(crate) const fn hold(&mut self, lease: &mut Lease) {
        std::mem::swap(&mut self.lease, lease);
    }
}

/// A body of no request: what layers outside of [`Background`](crate::Background) answer with that make responses of their own,
/// as tower-http's timeouts do.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::new(B::default(), Lease::none())
    }
}

/// Notes a frame, and whether the body is at its end now. Data is taken out of its frame and put into another: a frame has
/// room for trailers, and is large to move.
#[inline]
fn note<D: Buf>(open: &mut Open, frame: Frame<D>, at_end: bool) -> Frame<D> {
    match frame.into_data() {
        Ok(data) => {
            open.data(data.remaining(), at_end);
            Frame::data(data)
        }
        Err(frame) => open.other(frame),
    }
}

type PolledFrame<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// Polls a body of which somebody may want to know when the socket has it.
#[inline(never)]
fn poll_followed<B: Body<Data: 'static>>(mut inner: Pin<&mut B>, open: &mut Open, cx: &mut Context<'_>) -> PolledFrame<B> {
    open.asked();
    if open.is_over() {
        return if open.owes_none() { Poll::Ready(None) } else { inner.poll_frame(cx) };
    }
    let entered = open.enter();
    let polled = inner.as_mut().poll_frame(cx);
    let at_end = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) && inner.is_end_stream();
    entered.returned();
    match polled {
        Poll::Pending => {
            open.pending();
            Poll::Pending
        }
        Poll::Ready(Some(Ok(frame))) => {
            let before = open.bytes();
            let frame = note(open, frame, at_end);
            Poll::Ready(Some(Ok(open.follow(frame, at_end, before))))
        }
        Poll::Ready(Some(Err(error))) => {
            open.failed();
            Poll::Ready(Some(Err(error)))
        }
        Poll::Ready(None) => {
            open.ended();
            Poll::Ready(open.end_frame().map(Ok))
        }
    }
}

impl<B: Body<Data: 'static>> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(open) = this.lease.get_mut() else { return this.inner.poll_frame(cx) };
        if open.is_followed() {
            let polled = poll_followed(this.inner, open, cx);
            if matches!(polled, Poll::Ready(None)) {
                this.lease.body_ended();
            }
            return polled;
        }
        let entered = open.enter();
        let polled = this.inner.as_mut().poll_frame(cx);
        let at_end = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data()) && this.inner.is_end_stream();
        entered.returned();
        match polled {
            Poll::Pending => {
                open.pending();
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(note(open, frame, at_end)))),
            Poll::Ready(Some(Err(error))) => {
                open.failed();
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                open.ended();
                this.lease.body_ended();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lease.get().into_iter().for_each(Open::asked);
        self.lease.get().is_some_and(Open::at_end) || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
