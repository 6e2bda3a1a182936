//! [`HandOffLayer`]: has the head of a response wait until its jobs are written.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    before_head::Writes, end::grpc_status, hand_off_error::HandOffError, request::BackgroundTasksExt, tasks::BackgroundTasks,
};

/// Has the head of each response wait until the durable and held jobs of its request are written; see
/// [`HandOff`](crate::HandOff).
///
/// It belongs within a [`BackgroundLayer`](crate::BackgroundLayer), which [`BackgroundLayer::hand_off`] puts around it.
///
/// [`BackgroundLayer::hand_off`]: crate::BackgroundLayer::hand_off
///
/// # Examples
///
/// ```
/// use http::Response;
/// use tower_background::{BackgroundLayer, HandOffError, HandOffLayer};
/// use tower_layer::Stack;
///
/// fn answer(error: HandOffError) -> Response<String> {
///     Response::new(error.to_string())
/// }
///
/// let one = BackgroundLayer::new().hand_off(answer);
/// let other = Stack::new(HandOffLayer::new(answer), BackgroundLayer::new());
/// # drop((one, other));
/// ```
#[derive(Debug, Clone)]
pub struct HandOffLayer<F> {
    answer: F,
}

impl<F> HandOffLayer<F> {
    /// A layer that answers by `answer` where a job could not be written: for axum with a 503, for gRPC with the status
    /// `UNAVAILABLE`. The answer of the service itself is dropped then.
    ///
    /// The tasks of the request run after that answer, on the conditions that each has.
    pub const fn new(answer: F) -> Self {
        Self { answer }
    }
}

impl<S, F: Clone> Layer<S> for HandOffLayer<F> {
    type Service = HandOffService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        HandOffService { inner, answer: self.answer.clone() }
    }
}

/// The service of a [`HandOffLayer`].
#[derive(Debug, Clone)]
pub struct HandOffService<S, F> {
    inner: S,
    answer: F,
}

impl<S, F> HandOffService<S, F> {
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
}

impl<S, F, Req, Res> Service<Request<Req>> for HandOffService<S, F>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    F: FnOnce(HandOffError) -> Response<Res> + Clone,
    Res: Body,
{
    type Response = Response<Res>;
    type Error = S::Error;
    type Future = HandOffFuture<S::Future, F, Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        // There before the service is called, which may panic.
        let pending = request.background_tasks().ok().map(Pending::new);
        HandOffFuture { inner: self.inner.call(request), pending, written: None, answer: Some(self.answer.clone()) }
    }
}

pin_project! {
    /// The response future of a [`HandOffService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct HandOffFuture<F, A, B> {
        // Dropped first, so that what it adds while it is dropped is taken back with the rest.
        #[pin]
        inner: F,
        // Nothing without a registry, or when the head is there.
        pending: Option<Pending>,
        // The head, and what it waits for.
        written: Option<(Writes, Response<B>)>,
        answer: Option<A>,
    }
}

/// A request whose head is not there. Its drop takes back what that was to wait for.
struct Pending(Option<BackgroundTasks>);

impl Pending {
    fn new(tasks: BackgroundTasks) -> Self {
        tasks.await_before_head();
        Self(Some(tasks))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(tasks) = self.0.take() {
            tasks.no_head();
        }
    }
}

fn answered<A, B>(answer: &mut Option<A>, error: HandOffError, response: Response<B>) -> Response<B>
where
    A: FnOnce(HandOffError) -> Response<B>,
{
    match answer.take() {
        Some(answer) => answer(error),
        None => response,
    }
}

impl<F, A, B, E> Future for HandOffFuture<F, A, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    A: FnOnce(HandOffError) -> Response<B>,
    B: Body,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.written.is_none() {
            let response = match ready!(this.inner.poll(cx)) {
                Ok(response) => response,
                Err(error) => {
                    // Before the error ends the response, and releases what is left.
                    *this.pending = None;
                    return Poll::Ready(Err(error));
                }
            };
            let Some(tasks) = this.pending.as_mut().and_then(|pending| pending.0.take()) else {
                return Poll::Ready(Ok(response));
            };
            let grpc_status = if response.body().is_end_stream() { grpc_status(response.headers()) } else { None };
            match tasks.writes_before_head(response.status(), grpc_status) {
                Ok(None) => return Poll::Ready(Ok(response)),
                Ok(Some(writes)) => *this.written = Some((writes, response)),
                Err(error) => return Poll::Ready(Ok(answered(this.answer, error, response))),
            }
        }
        let Some((writes, _)) = this.written else { return Poll::Pending };
        let result = ready!(writes.poll(cx));
        let Some((_, response)) = this.written.take() else { return Poll::Pending };
        Poll::Ready(match result {
            Ok(()) => Ok(response),
            Err(error) => Ok(answered(this.answer, error, response)),
        })
    }
}

impl<F: fmt::Debug, A, B> fmt::Debug for HandOffFuture<F, A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOffFuture").field("inner", &self.inner).finish_non_exhaustive()
    }
}
