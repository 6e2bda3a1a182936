//! A layer that a careful user would write instead of this crate, with the same basic promises.
//!
//! Each task has a name, is counted, is listed while it lives, and can be aborted at shutdown. A
//! panic is caught. `idle()` waits for all tasks. Open responses are counted. A task can find the
//! request that it belongs to, and how the response ended.
//!
//! The benchmarks compare the crate with this layer. Do not tune this code: a change here moves the
//! goal of the crate. The layer leaves out what the crate does beyond that: limits, timeouts,
//! orders, conditions, observers, logs, and a start after the last byte.
//! `tests/guides/same_promises.rs` checks the promises.

#![allow(
    dead_code,
    reason = "the benchmarks only run tasks, and the test checks the rest"
)]

mod supervisor;
mod tasks;
mod tracker;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tower::Service;

#[allow(unused_imports, reason = "the same")]
pub(crate) use self::{
    supervisor::{Stats, Supervisor, TaskInfo},
    tasks::Tasks,
    tracker::{End, EndKind},
};
use self::{tasks::CURRENT, tracker::ResponseTracker};

/// The middleware.
#[derive(Clone)]
pub(crate) struct SamePromises<S> {
    inner: S,
    supervisor: Supervisor,
}

impl<S> SamePromises<S> {
    pub(crate) const fn new(inner: S, supervisor: Supervisor) -> Self {
        Self { inner, supervisor }
    }
}

impl<S, Req, Res> Service<Request<Req>> for SamePromises<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Body,
{
    type Response = Response<TrackedBody<Res>>;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let tasks = Tasks::new(self.supervisor.clone(), request.uri().clone());
        request.extensions_mut().insert(tasks.clone());
        let tracker = ResponseTracker::new(tasks.clone());
        TrackedFuture {
            inner: CURRENT.scope(tasks, self.inner.call(request)),
            tracker: Some(tracker),
        }
    }
}

pin_project! {
    /// The response future.
    pub(crate) struct TrackedFuture<F> {
        #[pin]
        inner: TaskLocalFuture<Tasks, F>,
        tracker: Option<ResponseTracker>,
    }
}

impl<F, B, E> Future for TrackedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<TrackedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut tracker = this
            .tracker
            .take()
            .expect("a future is not polled after its end");
        match result {
            Ok(response) => {
                tracker.head(&response);
                Poll::Ready(Ok(response.map(|inner| TrackedBody {
                    inner,
                    tracker: Some(tracker),
                })))
            }
            Err(error) => {
                tracker.failed();
                Poll::Ready(Err(error))
            }
        }
    }
}

pin_project! {
    /// The response body. The response ends when this body returns `None` or is dropped.
    pub(crate) struct TrackedBody<B> {
        // This field stands first, so that the body is dropped before the tasks start.
        #[pin]
        inner: B,
        tracker: Option<ResponseTracker>,
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(tracker) = this.tracker else {
            return this.inner.poll_frame(cx);
        };
        let polled = CURRENT.sync_scope(tracker.tasks().clone(), || {
            this.inner.as_mut().poll_frame(cx)
        });
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => tracker.data(data.remaining(), this.inner.is_end_stream()),
                None => tracker.trailers(),
            },
            Poll::Ready(Some(Err(_))) => tracker.failed(),
            Poll::Ready(None) => {
                tracker.ended();
                *this.tracker = None;
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
