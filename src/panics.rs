//! Running code that may panic where a panic must go no further.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `f`, and turns a panic in it into its message.
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    // What `f` has touched is not used again by a caller that gets the message.
    catch_unwind(AssertUnwindSafe(f)).map_err(message)
}

/// Runs `f`, and logs a panic in it.
pub(crate) fn quietly(f: impl FnOnce()) {
    if let Err(message) = caught(f) {
        crate::log::error!(panic = message, "a value of a task panicked while it was dropped");
    }
}

fn message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => {
            payload.downcast::<&str>().map_or_else(|_| "a value that is no text".to_owned(), |text| (*text).to_owned())
        }
    }
}
