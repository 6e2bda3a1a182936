//! [`HeadGuard`]: holds a value until the head of a response is dropped.

use std::sync::{Arc, Weak};

use crate::util::sync::{Mutex, lock};

/// Lies in the extensions of a response, and holds a value until the server drops them, which it
/// does when it has encoded the head.
///
/// axum answers `HEAD` by replacing the body outside of its routes, and tonic discards a body that
/// is at its end. The body is dropped before the head is sent then. The guard takes over the
/// tracker of such a body.
#[derive(Debug)]
pub(super) struct HeadGuard<T>(
    #[expect(dead_code, reason = "it is held for its drop")] Option<Arc<Mutex<Option<T>>>>,
);

/// The way from the body to the [`HeadGuard`].
#[derive(Debug)]
pub(super) struct HeadGuardLink<T>(Weak<Mutex<Option<T>>>);

impl<T> HeadGuard<T> {
    pub(super) fn new() -> (Self, HeadGuardLink<T>) {
        let held = Arc::new(Mutex::new(None));
        let link = HeadGuardLink(Arc::downgrade(&held));
        (Self(Some(held)), link)
    }
}

/// A clone holds nothing, so that a cache which keeps the extensions does not keep the response
/// open.
impl<T> Clone for HeadGuard<T> {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl<T> HeadGuardLink<T> {
    /// Gives the value to the guard. If the guard is gone, the value is dropped.
    pub(super) fn give(&self, value: T) {
        if let Some(held) = self.0.upgrade() {
            *lock(&held) = Some(value);
        }
    }
}
