//! Running code that may panic where a panic must go no further.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::name::Name;

/// Runs `f`, and turns a panic in it into its message.
#[inline]
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    // What `f` has touched is not used again by a caller that gets the message.
    catch_unwind(AssertUnwindSafe(f)).map_err(message)
}

/// Runs `f`, and logs a panic in it as one of `who`.
pub(crate) fn quietly(who: &'static str, f: impl FnOnce()) {
    if let Err(message) = caught(f) {
        crate::log::error!(who = who, panic = message, "a panic was caught");
    }
}

/// Drops something that a task has captured, and logs a panic in that under the task's name.
pub(crate) fn discard(task: Option<&Name>, drop: impl FnOnce()) {
    if let Err(message) = caught(drop) {
        let task = task.map_or("", Name::as_str);
        crate::log::error!(task = task, panic = message, "a value that a task has captured panicked when it was dropped");
    }
}

fn message(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<String>() {
        Ok(message) => return *message,
        Err(payload) => payload,
    };
    match payload.downcast::<&str>() {
        Ok(message) => (*message).to_owned(),
        Err(payload) => {
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                // What panics when it is dropped is left undropped.
                let _ = std::mem::ManuallyDrop::new(again);
            }
            "a value that is no text".to_owned()
        }
    }
}
