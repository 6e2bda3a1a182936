//! [`ResponseBody`]: sees the end of a response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::tracker::ResponseTracker;

/// The response body of [`Background`](crate::middleware::Background): the inner body, frame by
/// frame.
///
/// The response is over, and its tasks start, when this body returns `None` or is dropped,
/// whichever is first. A server need not poll a body to `None` and often does not, so the end is
/// noted when it is seen: see [`EndKind`](crate::EndKind). With
/// [`StartOn::LastByteSent`](crate::StartOn) only the drop counts.
#[pin_project]
#[derive(Debug)]
pub struct ResponseBody<B> {
    // Dropped before the tracker, so that tasks which its drop adds still wait for the end.
    #[pin]
    inner: B,
    tracker: ResponseTracker,
}

impl<B> ResponseBody<B> {
    pub(super) const fn new(inner: B, tracker: ResponseTracker) -> Self {
        Self { inner, tracker }
    }

    pub(super) const fn inner(&self) -> &B {
        &self.inner
    }

    pub(super) fn set_tracker(&mut self, tracker: ResponseTracker) {
        self.tracker = tracker;
    }
}

/// Creates a body that belongs to no request. A layer outside of this crate's, such as tower-http's
/// timeout, answers with it.
impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::new(B::default(), ResponseTracker::none())
    }
}

impl<B: Body<Data: 'static>> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        if this.tracker.is_over() {
            return this.inner.poll_frame(cx);
        }
        let user_code = this.tracker.enter();
        let mut polled = this.inner.as_mut().poll_frame(cx);
        let is_data = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        let at_end = is_data && this.inner.is_end_stream();
        user_code.returned();
        match &mut polled {
            Poll::Pending => this.tracker.note_poll(),
            Poll::Ready(Some(Ok(frame))) => this.tracker.note_frame(frame, at_end),
            Poll::Ready(Some(Err(_))) => this.tracker.note_error(),
            Poll::Ready(None) => this.tracker.note_end(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let at_end = self.tracker.observe(|| self.inner.is_end_stream());
        if at_end {
            self.tracker.note_tells_end();
        }
        at_end
    }

    fn size_hint(&self) -> SizeHint {
        self.tracker.observe(|| self.inner.size_hint())
    }
}
