//! A runner that has run all of its tasks parks, and the next response that ends on the same thread gives it its own: waking a
//! tokio task is much cheaper than spawning one.
//!
//! A thread keeps one. It parks at the end of a poll on this thread, and is taken by code that runs there after that poll, so
//! that as a rule it runs next where and when it would if it were spawned then: only a wake that an earlier task has left can
//! bring it to another worker. It holds nothing of a request, nor the supervisor, and ends with its runtime or with the thread
//! that keeps it.

use std::{
    cell::Cell,
    sync::{Arc, PoisonError},
    task::{Poll, Waker},
};

use tokio::runtime::Id;

use crate::{
    runner::Batch,
    sync::{self, Mutex, MutexGuard},
};

thread_local! {
    static PARKED: Cell<Parked> = const { Cell::new(Parked(None)) };
}

/// Where a runner finds what it is to run next.
pub(crate) struct Mailbox {
    runtime: Id,
    state: Mutex<State>,
}

struct State {
    /// The runner's, until it gets nothing more.
    waker: Option<Waker>,
    given: Option<Batch>,
}

/// The runner that waits on a thread.
#[derive(Default)]
struct Parked(Option<Arc<Mailbox>>);

impl Mailbox {
    /// That of a runner of this runtime, which is woken by `waker`. Nothing if this thread has no place for it.
    #[inline(never)]
    pub(crate) fn new(runtime: Id, waker: &Waker) -> Option<Arc<Self>> {
        let has_place = |slot: &Cell<Parked>| {
            let parked = slot.take();
            let has_place = parked.has_place(runtime);
            slot.set(parked);
            has_place
        };
        let state = || Mutex::new(State { waker: Some(waker.clone()), given: None });
        let parks = sync::KEEPS_SPARES && PARKED.try_with(has_place).unwrap_or(false);
        parks.then(|| Arc::new(Self { runtime, state: state() }))
    }

    /// Parks the runner on this thread. Returns whether the thread had a place for it.
    #[inline]
    pub(crate) fn park(self: &Arc<Self>) -> bool {
        let park = |slot: &Cell<Parked>| {
            let other = slot.take();
            let parks = other.has_place(self.runtime);
            slot.set(if parks { Parked(Some(Arc::clone(self))) } else { other });
            parks
        };
        PARKED.try_with(park).unwrap_or(false)
    }

    /// What the runner is to run next. Nothing if it is to end.
    pub(crate) fn poll(&self) -> Poll<Option<Batch>> {
        let mut state = self.state();
        match state.given.take() {
            None if state.waker.is_some() => Poll::Pending,
            given => Poll::Ready(given),
        }
    }

    /// Takes nothing more. What was given and not come to is cancelled.
    pub(crate) fn close(&self) -> Option<Waker> {
        let mut state = self.state();
        let (waker, given) = (state.waker.take(), state.given.take());
        // Its tasks are ended without the lock.
        drop(state);
        drop(given);
        waker
    }

    #[inline]
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the batch to a runner of this runtime that is parked on this thread. Returns it if there is none.
#[inline]
pub(crate) fn give(batch: Batch, runtime: Id) -> Result<(), Batch> {
    let Ok(Some(mailbox)) = PARKED.try_with(|slot| slot.take().0.take()) else { return Err(batch) };
    if mailbox.runtime != runtime {
        // Its runtime is gone, or about to serve this thread again.
        let _ = PARKED.try_with(|slot| slot.set(Parked(Some(mailbox))));
        return Err(batch);
    }
    let State { waker, given } = &mut *mailbox.state();
    // Without one its runtime is gone.
    let Some(waker) = waker else { return Err(batch) };
    *given = Some(batch);
    waker.wake_by_ref();
    Ok(())
}

impl Parked {
    /// Whether a runner of this runtime may take its place. One of another runtime is of no use as long as the thread runs this.
    fn has_place(&self, runtime: Id) -> bool {
        self.0.as_ref().is_none_or(|parked| parked.runtime != runtime)
    }
}

impl Drop for Parked {
    #[inline]
    fn drop(&mut self) {
        if let Some(mailbox) = self.0.take() {
            // Nobody knows of the runner any more.
            if let Some(waker) = mailbox.close() {
                waker.wake();
            }
        }
    }
}
