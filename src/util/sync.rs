//! The types that threads share: those of the standard library and of tokio, or those of loom in
//! its models.

#[cfg(all(test, background_loom))]
pub(crate) use self::modelled::{Mutex, MutexGuard, Notify, atomic};
#[cfg(not(all(test, background_loom)))]
pub(crate) use self::real::{Mutex, MutexGuard, Notify, atomic};

use std::sync::PoisonError;

/// Locks a mutex. Nothing of this crate panics while it holds a lock, so a poisoned lock is as good
/// as any.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(all(test, background_loom)))]
mod real {
    pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

    pub(crate) use tokio::sync::Notify;
}

/// loom has no `Notify`. Each call of tokio's is one step here, and loom tries all orders of these
/// steps.
#[cfg(all(test, background_loom))]
mod modelled {
    use std::sync::Arc;

    pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
    use tokio::sync::futures::{Notified, OwnedNotified};

    #[derive(Debug, Default)]
    pub(crate) struct Notify {
        step: atomic::AtomicUsize,
        inner: Arc<tokio::sync::Notify>,
    }

    impl Notify {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            self.step();
            self.inner.notified()
        }

        pub(crate) fn notified_owned(self: Arc<Self>) -> OwnedNotified {
            self.step();
            Arc::clone(&self.inner).notified_owned()
        }

        pub(crate) fn notify_waiters(&self) {
            self.step();
            self.inner.notify_waiters();
        }

        /// A step sees all that the steps before it did, as with the real `Notify`.
        fn step(&self) {
            self.step.fetch_add(1, atomic::Ordering::AcqRel);
        }
    }
}
