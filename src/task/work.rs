//! What a task does, with its type erased: one allocation for the work and the options of a task.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project::pin_project;

use super::{context::TaskContext, output::TaskOutput};
use crate::error::BoxError;

pub(crate) type WorkResult = Result<(), BoxError>;

pub(crate) type BlockingFunction = Box<dyn FnOnce(TaskContext) -> WorkResult + Send>;

/// The work of a task.
pub(super) trait Work: Send {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkResult>;

    /// Calls the function of a [`FunctionWork`], which makes the future to poll.
    fn call(self: Pin<&mut Self>, _context: TaskContext) {}

    /// Returns whether the work is a function that blocks its thread.
    fn is_blocking(&self) -> bool {
        false
    }

    /// Takes the function of a blocking task.
    fn take_function(self: Pin<&mut Self>) -> Option<BlockingFunction> {
        None
    }

    /// Drops what the user gave. This may panic.
    fn clear(self: Pin<&mut Self>);
}

#[pin_project]
pub(super) struct FutureWork<F>(#[pin] Option<F>);

impl<F> FutureWork<F> {
    pub(super) const fn new(future: F) -> Self {
        Self(Some(future))
    }
}

impl<F> Work for FutureWork<F>
where
    F: Future<Output: TaskOutput> + Send,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkResult> {
        match self.project().0.as_pin_mut() {
            Some(future) => future.poll(cx).map(TaskOutput::into_result),
            None => Poll::Pending,
        }
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().0.set(None);
    }
}

/// A function that makes the future when the task starts.
#[pin_project(project = FunctionWorkProjection)]
pub(super) enum FunctionWork<F, Fut> {
    Function(Option<F>),
    Future(#[pin] Fut),
}

impl<F, Fut> FunctionWork<F, Fut> {
    pub(super) const fn new(function: F) -> Self {
        Self::Function(Some(function))
    }
}

impl<F, Fut> Work for FunctionWork<F, Fut>
where
    F: FnOnce(TaskContext) -> Fut + Send,
    Fut: Future<Output: TaskOutput> + Send,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<WorkResult> {
        match self.project() {
            FunctionWorkProjection::Future(future) => future.poll(cx).map(TaskOutput::into_result),
            FunctionWorkProjection::Function(_) => Poll::Pending,
        }
    }

    fn call(mut self: Pin<&mut Self>, context: TaskContext) {
        if let FunctionWorkProjection::Function(function) = self.as_mut().project() {
            if let Some(function) = function.take() {
                let future = function(context);
                self.set(Self::Future(future));
            }
        }
    }

    fn clear(mut self: Pin<&mut Self>) {
        self.set(Self::Function(None));
    }
}

/// A function that blocks its thread.
pub(super) struct BlockingWork(Option<BlockingFunction>);

impl BlockingWork {
    pub(super) fn new<F, T>(function: F) -> Self
    where
        F: FnOnce(TaskContext) -> T + Send + 'static,
        T: TaskOutput,
    {
        Self(Some(Box::new(move |context| {
            function(context).into_result()
        })))
    }
}

impl Work for BlockingWork {
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<WorkResult> {
        Poll::Pending
    }

    fn is_blocking(&self) -> bool {
        true
    }

    fn take_function(mut self: Pin<&mut Self>) -> Option<BlockingFunction> {
        self.0.take()
    }

    fn clear(mut self: Pin<&mut Self>) {
        self.0 = None;
    }
}
