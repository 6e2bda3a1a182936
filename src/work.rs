//! What a task does, with its type erased: one allocation for any task, its options and its place in the books included.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::{context::TaskContext, error::BoxError, task::TaskOutput};

pub(crate) type WorkResult = Result<(), BoxError>;

/// A function that runs on a thread of its own.
pub(crate) type BlockingWork = Box<dyn FnOnce(TaskContext) -> WorkResult + Send>;

/// The work of a task.
pub(crate) trait Work: Send {
    /// Polls the work. `context` is for the first poll.
    fn poll(self: Pin<&mut Self>, context: &dyn Fn() -> TaskContext, cx: &mut Context<'_>) -> Poll<WorkResult>;

    /// Whether the work is a function, to be taken by `take_blocking`, and not to be polled.
    fn is_blocking(&self) -> bool {
        false
    }

    fn take_blocking(self: Pin<&mut Self>) -> Option<BlockingWork> {
        None
    }

    /// Drops what the user gave.
    fn clear(self: Pin<&mut Self>);
}

pin_project! {
    pub(crate) struct FutureWork<F> {
        #[pin]
        future: Option<F>,
    }
}

impl<F> FutureWork<F> {
    pub(crate) const fn new(future: F) -> Self {
        Self { future: Some(future) }
    }
}

impl<F> Work for FutureWork<F>
where
    F: Future<Output: TaskOutput> + Send,
{
    fn poll(self: Pin<&mut Self>, _context: &dyn Fn() -> TaskContext, cx: &mut Context<'_>) -> Poll<WorkResult> {
        match self.project().future.as_pin_mut() {
            Some(future) => future.poll(cx).map(TaskOutput::into_result),
            None => Poll::Pending,
        }
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }
}

pin_project! {
    #[project = ContextWorkProjection]
    pub(crate) enum ContextWork<F, Fut> {
        Made { function: Option<F> },
        Begun { #[pin] future: Fut },
    }
}

impl<F, Fut> ContextWork<F, Fut> {
    pub(crate) const fn new(function: F) -> Self {
        Self::Made { function: Some(function) }
    }
}

impl<F, Fut> Work for ContextWork<F, Fut>
where
    F: FnOnce(TaskContext) -> Fut + Send,
    Fut: Future<Output: TaskOutput> + Send,
{
    fn poll(mut self: Pin<&mut Self>, context: &dyn Fn() -> TaskContext, cx: &mut Context<'_>) -> Poll<WorkResult> {
        if let ContextWorkProjection::Made { function } = self.as_mut().project() {
            if let Some(function) = function.take() {
                self.set(Self::Begun { future: function(context()) });
            }
        }
        match self.project() {
            ContextWorkProjection::Begun { future } => future.poll(cx).map(TaskOutput::into_result),
            ContextWorkProjection::Made { .. } => Poll::Pending,
        }
    }

    fn clear(mut self: Pin<&mut Self>) {
        self.set(Self::Made { function: None });
    }
}

/// A function, until it is taken.
pub(crate) struct FunctionWork<F>(Option<F>);

impl<F> FunctionWork<F> {
    pub(crate) const fn new(function: F) -> Self {
        Self(Some(function))
    }
}

// The function is never pinned: it is moved out when it is called.
impl<F> Unpin for FunctionWork<F> {}

impl<F, T> Work for FunctionWork<F>
where
    F: FnOnce(TaskContext) -> T + Send + 'static,
    T: TaskOutput,
{
    fn poll(self: Pin<&mut Self>, _context: &dyn Fn() -> TaskContext, _cx: &mut Context<'_>) -> Poll<WorkResult> {
        Poll::Pending
    }

    fn is_blocking(&self) -> bool {
        true
    }

    fn take_blocking(mut self: Pin<&mut Self>) -> Option<BlockingWork> {
        let function = self.0.take()?;
        Some(Box::new(move |context| function(context).into_result()))
    }

    fn clear(mut self: Pin<&mut Self>) {
        self.0 = None;
    }
}
