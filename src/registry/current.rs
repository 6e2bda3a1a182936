//! The request whose code runs on this thread.

use std::{
    cell::Cell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::state::RequestState;

/// A reference, or none. A variable that drops nothing needs no state of its own, and code that runs
/// while a thread ends can use it.
type Current = ManuallyDrop<Option<Arc<RequestState>>>;

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(ManuallyDrop::new(None)) };
}

/// A request that can become the current one of a thread.
///
/// Its reference lies here, or in the thread-local variable while code of the request runs. A copy
/// would have to be counted, with two locked instructions each time. `tokio::task_local!` does the
/// same with a closure, which would move every request and every response several times.
pub(crate) struct RequestScope(Option<Arc<RequestState>>);

impl RequestScope {
    /// Makes the request the current one until the guard is dropped, also by a panic. It is meant
    /// for one poll or one call.
    #[inline]
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        self.exchange();
        Entered {
            scope: self,
            not_send: PhantomData,
        }
    }

    /// Exchanges the reference with that in the thread-local variable.
    #[inline]
    fn exchange(&mut self) {
        self.0 = replace(self.0.take());
    }
}

impl From<Arc<RequestState>> for RequestScope {
    fn from(state: Arc<RequestState>) -> Self {
        Self(Some(state))
    }
}

impl Deref for RequestScope {
    type Target = Arc<RequestState>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect(NOT_ENTERED)
    }
}

impl DerefMut for RequestScope {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.as_mut().expect(NOT_ENTERED)
    }
}

const NOT_ENTERED: &str = "the guard borrows the scope, and puts the reference back";

/// See [`RequestScope::enter`]. Until it is dropped, its scope keeps the request that was the current
/// one before.
#[must_use = "the request is current until the guard is dropped"]
pub(crate) struct Entered<'a> {
    scope: &'a mut RequestScope,
    /// The guard must be dropped on its own thread.
    not_send: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.scope.exchange();
    }
}

/// Returns the request whose code runs on this thread.
pub(super) fn current() -> Option<Arc<RequestState>> {
    let current = replace(None);
    // What this returns is the `None` from above.
    let _ = replace(current.clone());
    current
}

/// Replaces the current request, and returns the one before.
#[inline]
fn replace(state: Option<Arc<RequestState>>) -> Option<Arc<RequestState>> {
    ManuallyDrop::into_inner(CURRENT.replace(ManuallyDrop::new(state)))
}
