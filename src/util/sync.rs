//! The types that threads share: those of the standard library and of tokio, or those of loom in
//! its models.

#[cfg(all(test, background_loom))]
pub(crate) use {
    self::modelled::Notify,
    loom::sync::{Mutex, MutexGuard, atomic},
};
#[cfg(not(all(test, background_loom)))]
pub(crate) use {
    std::sync::{Mutex, MutexGuard, atomic},
    tokio::sync::Notify,
};

use std::sync::PoisonError;

/// Locks a mutex. No code of this crate panics while it holds a lock, so a poisoned lock is as good
/// as any other.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a model in all orders that preempt a thread at most three times. Bugs need few switches.
#[cfg(all(test, background_loom))]
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// loom has no `Notify`. Each call of tokio's `Notify` is one step here, and loom tries all orders
/// of these steps.
#[cfg(all(test, background_loom))]
mod modelled {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::futures::{Notified, OwnedNotified};

    #[derive(Debug, Default)]
    pub(crate) struct Notify {
        step: AtomicUsize,
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
            self.step.fetch_add(1, Ordering::AcqRel);
        }
    }
}
