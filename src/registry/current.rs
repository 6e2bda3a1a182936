//! The request whose code runs on this thread.

use std::{cell::Cell, marker::PhantomData, sync::Arc};

use super::state::RequestState;

thread_local! {
    static CURRENT: Cell<Option<Arc<RequestState>>> = const { Cell::new(None) };
}

/// Makes a request the current one until the guard is dropped, also by a panic.
///
/// It is meant for one poll or one call. `tokio::task_local!` does the same with a closure, which
/// would move every request and every response several times.
#[must_use = "the request is current until the guard is dropped"]
pub(crate) struct Entered {
    before: Option<Arc<RequestState>>,
    /// The guard must be dropped on its own thread.
    not_send: PhantomData<*const ()>,
}

/// Enters a request. See [`Entered`].
#[inline]
pub(crate) fn enter_request(state: &Arc<RequestState>) -> Entered {
    Entered {
        before: replace(Some(Arc::clone(state))),
        not_send: PhantomData,
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        drop(replace(self.before.take()));
    }
}

/// Returns the request whose code runs on this thread.
pub(super) fn current() -> Option<Arc<RequestState>> {
    let current = replace(None);
    drop(replace(current.clone()));
    current
}

/// Replaces the current request. A thread that ends has none.
#[inline]
fn replace(state: Option<Arc<RequestState>>) -> Option<Arc<RequestState>> {
    CURRENT
        .try_with(|current| current.replace(state))
        .ok()
        .flatten()
}
