//! What threads share: the types of the standard library and of tokio, or those of loom where `models.rs` is checked.

#[cfg(not(all(test, background_loom)))]
pub(crate) use self::plain::{Arc, KEEPS_SPARES, Mutex, MutexGuard, Notify, OnceLock, Weak, atomic};
#[cfg(all(test, background_loom))]
pub(crate) use self::stepped::{Arc, KEEPS_SPARES, Mutex, MutexGuard, Notify, OnceLock, Weak, atomic};

#[cfg(not(all(test, background_loom)))]
mod plain {
    pub(crate) use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak, atomic};
    pub(crate) use tokio::sync::Notify;

    /// Whether what one response has used may serve another.
    pub(crate) const KEEPS_SPARES: bool = true;
}

/// loom has no `Weak`, no `OnceLock` and nothing of tokio's. Their own code is not what is in question here, so that each call
/// of them is one step, and loom tries all orders of such steps.
#[cfg(all(test, background_loom))]
mod stepped {
    use std::{ops::Deref, sync};

    pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
    use tokio::sync::futures::{Notified, OwnedNotified};

    /// A model's locks are of that run alone.
    pub(crate) const KEEPS_SPARES: bool = false;

    /// Makes loom see what it would not. A step comes after all that the steps before it have done, as tokio and the standard
    /// library hold as well: a plain load could be one of an old value.
    #[derive(Debug, Default)]
    struct Step(atomic::AtomicUsize);

    impl Step {
        fn take(&self) {
            self.0.fetch_add(1, atomic::Ordering::AcqRel);
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Notify {
        step: Step,
        inner: sync::Arc<tokio::sync::Notify>,
    }

    impl Notify {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notified(&self) -> Notified<'_> {
            self.step.take();
            self.inner.notified()
        }

        pub(crate) fn notified_owned(self: sync::Arc<Self>) -> OwnedNotified {
            self.step.take();
            sync::Arc::clone(&self.inner).notified_owned()
        }

        pub(crate) fn notify_waiters(&self) {
            self.step.take();
            self.inner.notify_waiters();
        }
    }

    #[derive(Debug)]
    pub(crate) struct OnceLock<T> {
        step: Step,
        inner: sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self { step: Step::default(), inner: sync::OnceLock::new() }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.step.take();
            self.inner.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.step.take();
            self.inner.set(value)
        }

        pub(crate) fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
            // Made before the step: it may take steps of its own, and they may not wait for each other inside of one.
            let value = value();
            self.step.take();
            self.inner.get_or_init(|| value)
        }
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    #[derive(Debug)]
    pub(crate) struct Arc<T> {
        step: sync::Arc<Step>,
        inner: sync::Arc<T>,
    }

    #[derive(Debug)]
    pub(crate) struct Weak<T> {
        step: sync::Arc<Step>,
        inner: sync::Weak<T>,
    }

    impl<T> Arc<T> {
        pub(crate) fn downgrade(this: &Self) -> Weak<T> {
            Weak { step: sync::Arc::clone(&this.step), inner: sync::Arc::downgrade(&this.inner) }
        }
    }

    impl<T: Default> Default for Arc<T> {
        fn default() -> Self {
            Self { step: sync::Arc::default(), inner: sync::Arc::default() }
        }
    }

    impl<T> Deref for Arc<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.inner
        }
    }

    impl<T> Drop for Arc<T> {
        fn drop(&mut self) {
            self.step.take();
        }
    }

    impl<T> Weak<T> {
        pub(crate) fn upgrade(&self) -> Option<Arc<T>> {
            self.step.take();
            self.inner.upgrade().map(|inner| Arc { step: sync::Arc::clone(&self.step), inner })
        }
    }
}
