//! A body that follows a script, and reports when it is over.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::witness::Course;

/// One thing that a body does when it is polled.
pub enum Step {
    /// Yields data.
    Data(Bytes),
    /// Yields trailers.
    Trailers(HeaderMap),
    /// Fails.
    Error,
    /// Panics.
    Panic,
    /// Has nothing, for ever.
    Hang,
    /// Has nothing until it is notified.
    Wait(Arc<Notify>),
}

impl Step {
    pub fn data(data: impl Into<Bytes>) -> Self {
        Self::Data(data.into())
    }

    pub fn trailer(name: &'static str, value: &'static str) -> Self {
        Self::Trailers(
            [(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )]
            .into_iter()
            .collect(),
        )
    }
}

/// The error of a body whose script says so.
#[derive(Debug)]
pub struct Scripted;

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the script says so")
    }
}

impl std::error::Error for Scripted {}

/// A body that does one step a poll, then returns `None`.
#[derive(Default)]
pub struct Script {
    steps: VecDeque<Step>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    hint: SizeHint,
    tells_end: bool,
    course: Option<Course>,
}

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            waiting: None,
            hint: SizeHint::default(),
            tells_end: false,
            course: None,
        }
    }

    /// States an exact size, true or not.
    pub fn sized(mut self, size: u64) -> Self {
        self.hint = SizeHint::with_exact(size);
        self
    }

    /// Says by `is_end_stream` when no step is left, as a body that knows its length does.
    pub fn tells_end(mut self) -> Self {
        self.tells_end = true;
        self
    }

    /// Reports its course to the witness of the request that it answers.
    pub fn seen_by(mut self, course: Course) -> Self {
        self.course = Some(course);
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Scripted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Scripted>>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                this.waiting = None;
            }
            if matches!(this.steps.front(), Some(Step::Hang)) {
                return Poll::Pending;
            }
            let step = this.steps.pop_front();
            if let Some(course) = &this.course {
                course.polled(step.is_none() || this.steps.is_empty());
            }
            return Poll::Ready(match step {
                None => None,
                Some(Step::Data(data)) => Some(Ok(Frame::data(data))),
                Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Step::Error) => Some(Err(Scripted)),
                Some(Step::Panic) => panic!("the script says so"),
                Some(Step::Wait(notify)) => {
                    this.waiting = Some(Box::pin(async move { notify.notified().await }));
                    continue;
                }
                Some(Step::Hang) => unreachable!("it is left in place"),
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty() && self.waiting.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Some(course) = &self.course {
            course.dropped();
        }
    }
}
