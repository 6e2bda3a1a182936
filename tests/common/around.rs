//! Wraps a body of another crate, and reports when it is over.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};

use super::witness::Course;

/// Passes a body on as it is, and reports its course to the witness of the request that it answers.
pub struct Around<B> {
    inner: Pin<Box<B>>,
    course: Course,
}

impl<B> Around<B> {
    pub fn new(inner: B, course: &Course) -> Self {
        Self {
            inner: Box::pin(inner),
            course: course.expect_body(),
        }
    }
}

impl<B: Body> Body for Around<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(self.inner.as_mut().poll_frame(cx));
        let goes_on =
            matches!(&frame, Some(Ok(frame)) if frame.is_data()) && !self.inner.is_end_stream();
        self.course.polled(!goes_on);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for Around<B> {
    fn drop(&mut self) {
        self.course.dropped();
    }
}
