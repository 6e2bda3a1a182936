//! Runs and drops what belongs to the user. Its panics are logged, and go no further.

use crate::util::{panic::catch, trace};

/// Calls `f`, and logs a panic. Returns `None` after a panic.
#[inline]
pub(crate) fn catch_and_log<R>(what: &'static str, f: impl FnOnce() -> R) -> Option<R> {
    catch(f)
        .map_err(|message| trace::caught_panic(what, &message))
        .ok()
}

/// Drops a value of the user, and logs a panic of its `Drop`.
pub(crate) fn drop_and_log<T>(what: &'static str, value: T) {
    catch_and_log(what, || drop(value));
}
