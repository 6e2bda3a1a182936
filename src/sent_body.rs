//! [`SentBody`]: what a server has of a response, outside of all layers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{
    progress::{bodyless, content_length},
    sent_frames::{Ending, guard_data, guard_headers},
    sent_guard::Hold,
};

pin_project! {
    /// The response body of [`SentService`](crate::SentService): the inner one, frame by frame.
    ///
    /// Where tasks wait for the response, its drop tells that the server has all of it, whatever the layers below have done with
    /// the body of the handler; and over HTTP/2 its last frame is marked.
    #[derive(Debug)]
    pub struct SentBody<B> {
        // Dropped before the rest, so that what it ends is known when the server lets go.
        #[pin]
        pub(crate) inner: B,
        pub(crate) held: Option<Held>,
    }
}

/// What is seen of a response that tasks wait for.
#[derive(Debug)]
pub(crate) struct Held {
    hold: Hold,
    ending: Ending,
    multiplexed: bool,
    /// How much data the server takes at most, over HTTP/1, in bytes.
    declared: Option<u64>,
    yielded: u64,
}

impl Held {
    /// Notes whether the server has all of the response now.
    fn judge(&mut self) {
        self.hold.whole = self.ending.passed || self.declared.is_some_and(|declared| self.yielded >= declared);
    }

    fn frame<D: Buf + 'static>(&mut self, frame: Frame<D>, at_end: bool) -> Frame<D> {
        self.yielded += frame.data_ref().map_or(0, |data| data.remaining() as u64);
        let last = at_end || frame.is_trailers();
        self.ending.passed |= last;
        self.judge();
        if !last || !self.multiplexed {
            return frame;
        }
        let mut frame = guard_data(frame, |length| self.hold.last_guard(length));
        if let Some(trailers) = frame.trailers_mut() {
            guard_headers(trailers, || self.hold.last_guard(0));
        }
        frame
    }

    fn ended<D: 'static>(&mut self) -> Option<Frame<D>> {
        self.hold.whole = true;
        if self.ending.passed || !self.multiplexed {
            return None;
        }
        self.ending.tell(|| self.hold.last_guard(0))
    }
}

impl<B: Body> SentBody<B> {
    /// What the server has of a response that tasks wait for.
    pub(crate) fn of(response: Response<B>, hold: Hold, method: &Method, multiplexed: bool) -> Response<Self> {
        let (mut parts, inner) = response.into_parts();
        let ending = Ending::new(inner.is_end_stream());
        if ending.passed && multiplexed {
            guard_headers(&mut parts.headers, || hold.last_guard(0));
        }
        let declared = inner.size_hint().exact().or_else(|| content_length(&parts.headers)).filter(|_| !multiplexed);
        let mut seen = Held { hold, ending, multiplexed, declared, yielded: 0 };
        seen.judge();
        // What can have no body is whole if it is asked for none.
        seen.hold.whole |= bodyless(method, parts.status);
        Response::from_parts(parts, Self { inner, held: Some(seen) })
    }
}

impl<B> SentBody<B> {
    /// What nobody waits for.
    pub(crate) const fn passing(inner: B) -> Self {
        Self { inner, held: None }
    }
}

impl<B: Body<Data: 'static>> Body for SentBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(held) = this.held else { return this.inner.poll_frame(cx) };
        held.hold.asked();
        if held.ending.owes_none() {
            return Poll::Ready(None);
        }
        held.judge();
        Poll::Ready(match ready!(this.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                let at_end = frame.is_data() && this.inner.is_end_stream();
                Some(Ok(held.frame(frame, at_end)))
            }
            Some(Err(error)) => {
                held.hold.whole = false;
                Some(Err(error))
            }
            None => held.ended().map(Ok),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.ending.is_told()) || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
