//! Calls code of the user, and drops values of the user. A panic is logged, and goes no further.

use super::{panic::catch, trace};

/// Calls `f`. Logs a panic, and returns `None` then.
#[inline]
pub(crate) fn catch_and_log<R>(what: &'static str, f: impl FnOnce() -> R) -> Option<R> {
    catch(f)
        .map_err(|message| trace::caught_panic(what, &message))
        .ok()
}

/// Drops a value. Logs a panic of its `Drop`.
pub(crate) fn drop_and_log<T>(what: &'static str, value: T) {
    catch_and_log(what, || drop(value));
}
