//! [`SentBody`]: the response body that the server gets, outside of all layers.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::{
    frames::{Ending, guard_data, guard_headers},
    guard::InFlight,
};
use crate::response::{can_have_body, declared_length};

/// The response body of [`SentService`](super::SentService): the inner body, frame by frame.
///
/// The drop of this body shows whether the server has all of the response, whatever the layers inside
/// have done with the body of the handler. Over HTTP/2, if tasks wait for the response, its last
/// frame has a guard that shows when the server has written the frame.
#[pin_project]
#[derive(Debug)]
pub struct SentBody<B> {
    // Dropped before `followed`, so that the end of the inner response is known when the server
    // drops this body.
    #[pin]
    inner: B,
    followed: Option<Followed>,
}

/// What was seen of a response on a tracked connection.
#[derive(Debug)]
pub(super) struct Followed {
    in_flight: InFlight,
    ending: Ending,
    /// How many more bytes of data the server takes. `u64::MAX` if it takes all.
    left: u64,
}

impl<B> SentBody<B> {
    pub(super) const fn new(inner: B, followed: Option<Followed>) -> Self {
        Self { inner, followed }
    }
}

impl<B: Body<Data: 'static>> Body for SentBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(followed) = this.followed else {
            return this.inner.poll_frame(cx);
        };
        followed.in_flight.note_poll();
        if followed.ending.take_owed_none() {
            return Poll::Ready(None);
        }
        followed.note_whole();
        // A frame is large to move, so it is changed in place.
        let mut polled = this.inner.as_mut().poll_frame(cx);
        match &mut polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                let at_end = frame.is_data() && this.inner.is_end_stream();
                followed.note_frame(frame, at_end);
            }
            Poll::Ready(Some(Err(_))) => followed.in_flight.note_whole(false),
            Poll::Ready(None) => return Poll::Ready(followed.note_end().map(Ok)),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let Some(followed) = &self.followed else {
            return self.inner.is_end_stream();
        };
        let at_end = followed.ending.has_end_frame() || self.inner.is_end_stream();
        if at_end {
            // The server need not poll the body again.
            followed.in_flight.note_whole(true);
        }
        at_end
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Followed {
    /// Follows a response that the server gets now.
    pub(super) fn new<B: Body>(response: &mut Response<B>, in_flight: InFlight) -> Self {
        in_flight.note_head();
        let body = response.body();
        let mut ending = Ending::default();
        ending.note_last(body.is_end_stream());
        let mut left = u64::MAX;
        if !in_flight.is_multiplexed() {
            // Over HTTP/1 the server cuts off the data after the declared length.
            let declared = body.size_hint().exact();
            let declared = declared.or_else(|| declared_length(response.headers()));
            left = declared.unwrap_or(left);
        } else if ending.has_passed() {
            guard_headers(response.headers_mut(), || in_flight.guard_last(0));
        }
        let can_have_body = can_have_body(in_flight.method(), response.status());
        let followed = Self {
            in_flight,
            ending,
            left,
        };
        if can_have_body {
            followed.note_whole();
        } else {
            // The server does not poll the body.
            followed.in_flight.note_whole(true);
        }
        followed
    }

    /// Notes whether the server has all of the response now.
    fn note_whole(&self) {
        let is_whole = self.ending.has_passed() || self.left == 0;
        self.in_flight.note_whole(is_whole);
    }

    /// Notes a frame, and puts a guard into the last one.
    fn note_frame<D: Buf + 'static>(&mut self, frame: &mut Frame<D>, at_end: bool) {
        let yielded = frame.data_ref().map_or(0, Buf::remaining);
        self.left = self.left.saturating_sub(yielded as u64);
        let is_last = at_end || frame.is_trailers();
        self.ending.note_last(is_last);
        self.note_whole();
        if !is_last || !self.in_flight.is_multiplexed() {
            return;
        }
        if let Some(data) = frame.data_mut() {
            if let Some(data) = (data as &mut dyn Any).downcast_mut::<Bytes>() {
                let guard = self.in_flight.guard_last(data.len());
                guard_data(data, guard);
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            guard_headers(trailers, || self.in_flight.guard_last(0));
        }
    }

    /// Notes that the body returned `None`. Returns an empty frame with a guard to send in place of
    /// the `None`.
    fn note_end<D: 'static>(&mut self) -> Option<Frame<D>> {
        self.in_flight.note_whole(true);
        if self.ending.has_passed() || !self.in_flight.is_multiplexed() {
            return None;
        }
        let mut data = None::<D>;
        let empty = (&mut data as &mut dyn Any).downcast_mut::<Option<Bytes>>()?;
        *empty = self.ending.end_frame(|| self.in_flight.guard_last(0));
        data.map(Frame::data)
    }
}
