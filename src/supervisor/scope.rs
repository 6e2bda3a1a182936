//! [`TaskScope`]: what surrounds the code of one task.

use super::capture::Scope;
use crate::util::{TaskSpan, catch_and_log, drop_and_log};

/// The captured contexts and the span of a task.
pub(crate) struct TaskScope {
    pub(super) span: Option<TaskSpan>,
    captured: Vec<Box<dyn Scope>>,
}

impl TaskScope {
    /// Returns `None` if nothing surrounds the task.
    pub(crate) fn new(span: Option<TaskSpan>, captured: Vec<Box<dyn Scope>>) -> Option<Self> {
        (span.is_some() || !captured.is_empty()).then_some(Self { span, captured })
    }

    /// Runs `f` inside the captured contexts and the span. `f` itself must not panic.
    pub(crate) fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        if self.captured.is_empty() {
            return self.in_span(f);
        }
        let mut f = Some(f);
        let mut result = None;
        catch_and_log("a captured context", || {
            enter_all(&self.captured, &mut || {
                if let Some(f) = f.take() {
                    result = Some(self.in_span(f));
                }
            });
        });
        match (result, f) {
            (Some(result), _) => result,
            // The context panicked before it called `f`, or did not call it.
            (None, Some(f)) => self.in_span(f),
            (None, None) => unreachable!("`f` returns a result and does not panic"),
        }
    }

    fn in_span<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.span {
            Some(span) => span.in_scope(f),
            None => f(),
        }
    }
}

impl Drop for TaskScope {
    fn drop(&mut self) {
        for captured in self.captured.drain(..) {
            drop_and_log("a captured context", captured);
        }
    }
}

fn enter_all(scopes: &[Box<dyn Scope>], f: &mut dyn FnMut()) {
    match scopes.split_first() {
        Some((first, rest)) => first.enter(&mut || enter_all(rest, f)),
        None => f(),
    }
}
