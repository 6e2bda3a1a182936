//! [`HeadGuard`]: holds a value until the head of a response is dropped.

use std::sync::Arc;

use crate::util::sync::{Mutex, lock};

/// Lies in the extensions of a response, and holds a value until the server drops them, which it
/// does when it has encoded the head.
///
/// axum answers `HEAD` by replacing the body outside of its routes, and tonic discards a body that
/// is at its end. The body is dropped before the head is sent then. The guard takes over the
/// tracker of such a body.
///
/// A cache may keep the head or a clone of it, and the server gets the other one. So the first drop
/// of any clone counts.
#[derive(Debug)]
pub(super) struct HeadGuard<T>(Arc<Mutex<Held<T>>>);

/// The way from the body to the [`HeadGuard`].
#[derive(Debug)]
pub(super) struct HeadGuardLink<T>(Arc<Mutex<Held<T>>>);

#[derive(Debug)]
enum Held<T> {
    /// The body has not given its value.
    Nothing,
    Value(T),
    /// The head is dropped.
    Dropped,
}

impl<T> HeadGuard<T> {
    pub(super) fn new() -> (Self, HeadGuardLink<T>) {
        let held = Arc::new(Mutex::new(Held::Nothing));
        (Self(Arc::clone(&held)), HeadGuardLink(held))
    }
}

// Not derived, because `T` need not be `Clone`.
impl<T> Clone for HeadGuard<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for HeadGuard<T> {
    fn drop(&mut self) {
        let held = std::mem::replace(&mut *lock(&self.0), Held::Dropped);
        // After the lock, because the drop of the value runs code of the user.
        drop(held);
    }
}

impl<T> HeadGuardLink<T> {
    /// Gives the value to the guard. If the head is dropped, the value is dropped.
    pub(super) fn give(&self, value: T) {
        let mut held = lock(&self.0);
        let refused = if matches!(*held, Held::Nothing) {
            *held = Held::Value(value);
            None
        } else {
            Some(value)
        };
        drop(held);
        // After the lock, as above.
        drop(refused);
    }
}
