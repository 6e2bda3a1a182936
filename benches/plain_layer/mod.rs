//! The simplest hand-written layer: a list in the request's extensions, and a body whose drop
//! spawns each future of the list. It promises nothing about these tasks.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::Service;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The list.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<Vec<Task>>>);

impl Tasks {
    pub(crate) fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0
            .lock()
            .expect("no one panics with it")
            .push(Box::pin(task));
    }
}

/// The middleware.
#[derive(Clone)]
pub(crate) struct PlainLayer<S>(pub(crate) S);

impl<S, Req, Res> Service<Request<Req>> for PlainLayer<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    Res: Body + Unpin,
{
    type Response = Response<SpawnOnDrop<Res>>;
    type Error = S::Error;
    type Future = PlainFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Req>) -> Self::Future {
        let tasks = Tasks::default();
        request.extensions_mut().insert(tasks.clone());
        PlainFuture {
            inner: self.0.call(request),
            tasks,
        }
    }
}

pin_project! {
    /// The response future.
    pub(crate) struct PlainFuture<F> {
        #[pin]
        inner: F,
        tasks: Tasks,
    }
}

impl<F, B, E> Future for PlainFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<SpawnOnDrop<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner
            .poll(cx)
            .map_ok(|response| response.map(|body| SpawnOnDrop(body, this.tasks.clone())))
    }
}

/// The body.
pub(crate) struct SpawnOnDrop<B>(B, Tasks);

impl<B> Drop for SpawnOnDrop<B> {
    fn drop(&mut self) {
        for task in mem::take(&mut *self.1.0.lock().expect("no one panics with it")) {
            drop(tokio::spawn(task));
        }
    }
}

impl<B: Body + Unpin> Body for SpawnOnDrop<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
