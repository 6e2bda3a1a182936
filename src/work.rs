//! What a task does, with its type erased: one allocation for any future, also for one that is made from a [`TaskContext`].

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::{context::TaskContext, error::BoxError, task::TaskOutput};

pub(crate) type WorkResult = Result<(), BoxError>;

/// Asynchronous work.
pub(crate) trait Work: Send {
    /// Called once, before the first poll.
    fn begin(self: Pin<&mut Self>, _context: &dyn Fn() -> TaskContext) {}

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkResult>;
}

pub(crate) type AsyncWork = Pin<Box<dyn Work>>;

/// Blocking work.
pub(crate) type BlockingWork = Box<dyn FnOnce(TaskContext) -> WorkResult + Send>;

pin_project! {
    pub(crate) struct FutureWork<F> {
        #[pin]
        pub(crate) future: F,
    }
}

impl<F> Work for FutureWork<F>
where
    F: Future<Output: TaskOutput> + Send,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkResult> {
        self.project().future.poll(cx).map(TaskOutput::into_result)
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
    fn begin(mut self: Pin<&mut Self>, context: &dyn Fn() -> TaskContext) {
        if let ContextWorkProjection::Made { function } = self.as_mut().project() {
            if let Some(function) = function.take() {
                self.set(Self::Begun { future: function(context()) });
            }
        }
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkResult> {
        match self.project() {
            ContextWorkProjection::Begun { future } => future.poll(cx).map(TaskOutput::into_result),
            ContextWorkProjection::Made { .. } => unreachable!("work begins before it is polled"),
        }
    }
}
