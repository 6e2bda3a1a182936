//! [`TaskSpan`]: the span of a task for `tracing`.

use tracing::{Span, field::Empty, info_span, level_filters::LevelFilter};

use super::{panic::catch, request_fields::RequestFields};

/// The span of a task: a root span that follows from the span in which the task was added, or a
/// child of that span.
///
/// A subscriber is code of the user, and each of its callbacks may panic. Such a panic is
/// dropped, because to log it would call the subscriber again.
#[derive(Debug)]
pub(crate) struct TaskSpan(Option<Span>);

impl TaskSpan {
    /// Returns whether a subscriber could want the span of a task.
    pub(crate) fn is_wanted() -> bool {
        LevelFilter::current() >= LevelFilter::INFO
    }

    /// Creates the span. Returns `None` if no subscriber wants it.
    pub(crate) fn new(
        name: Option<&str>,
        request: RequestFields<'_>,
        is_child: bool,
    ) -> Option<Self> {
        let span = catch(|| {
            let current = Span::current();
            let parent = if is_child { current.id() } else { None };
            let span = info_span!(
                target: "tower_background",
                parent: parent,
                "background_task",
                task = name,
                method = request.method,
                path = request.path,
                request_id = request.id,
                outcome = Empty,
            );
            if !is_child && !span.is_disabled() {
                span.follows_from(current);
            }
            span
        });
        span.ok()
            .filter(|span| !span.is_disabled())
            .map(|span| Self(Some(span)))
    }

    /// Runs `f` inside the span. `f` itself must not panic.
    pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let Some(span) = &self.0 else { return f() };
        let entered = catch(|| span.enter());
        let result = f();
        let _ = match entered {
            Ok(entered) => catch(|| drop(entered)),
            // A part of the subscriber may have entered the span before another part panicked.
            Err(_) => catch(|| {
                span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
            }),
        };
        result
    }

    /// Records the outcome of the task in the span.
    pub(super) fn record_outcome(&self, outcome: &'static str) {
        if let Some(span) = &self.0 {
            let _ = catch(|| {
                span.record("outcome", outcome);
            });
        }
    }
}

impl Drop for TaskSpan {
    fn drop(&mut self) {
        let span = self.0.take();
        let _ = catch(|| drop(span));
    }
}
