//! A runner that has run all of its tasks parks, and the next response that ends on the same thread gives it its own: waking a
//! tokio task is much cheaper than spawning one.
//!
//! A thread keeps one. It parks at the end of a poll on this thread, and is taken by code that runs there after that poll, so
//! that where and when it runs next is as if it were spawned then. It holds nothing of a request, nor the supervisor, and ends
//! with its runtime or with the thread that keeps it.

use std::{
    cell::Cell,
    mem,
    sync::{Arc, PoisonError},
    task::{Poll, Waker},
};

use tokio::runtime::{Handle, Id};

use crate::{
    runner::Batch,
    sync::{self, Mutex, MutexGuard},
};

thread_local! {
    static PARKED: Cell<Option<Parked>> = const { Cell::new(None) };
}

/// Where a runner finds what it is to run next.
pub(crate) struct Mailbox {
    runtime: Id,
    state: Mutex<State>,
}

enum State {
    /// The runner runs.
    Busy,
    /// The runner waits, to be woken by this.
    Waiting(Waker),
    /// This was given to the runner, which is woken.
    Given(Batch),
    /// The runner gets nothing more.
    Closed,
}

/// A runner that waits, as its thread knows it.
struct Parked {
    runtime: Id,
    mailbox: Option<Arc<Mailbox>>,
}

impl Mailbox {
    /// That of the runner that is polled now.
    #[cold]
    pub(crate) fn of_this_runtime() -> Option<Arc<Self>> {
        let runtime = Handle::try_current().ok().filter(|_| sync::KEEPS_SPARES)?.id();
        Some(Arc::new(Self { runtime, state: Mutex::new(State::Busy) }))
    }

    /// Parks the runner on this thread. Returns whether the thread had a place for it.
    pub(crate) fn park(self: &Arc<Self>, waker: &Waker) -> bool {
        let park = |slot: &Cell<Option<Parked>>| {
            let other = slot.take();
            // One of another runtime is of no use as long as this thread runs this one.
            let parks = other.as_ref().is_none_or(|other| other.runtime != self.runtime);
            if parks {
                *self.state() = State::Waiting(waker.clone());
                slot.set(Some(Parked { runtime: self.runtime, mailbox: Some(Arc::clone(self)) }));
            } else {
                slot.set(other);
            }
            parks
        };
        PARKED.try_with(park).unwrap_or(false)
    }

    /// What the runner is to run next. Nothing if it is to end.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Option<Batch>> {
        let mut state = self.state();
        match mem::replace(&mut *state, State::Busy) {
            State::Given(batch) => Poll::Ready(Some(batch)),
            State::Busy | State::Waiting(_) => {
                *state = State::Waiting(waker.clone());
                Poll::Pending
            }
            State::Closed => Poll::Ready(None),
        }
    }

    /// Takes nothing more, as the runner is dropped. What it was given and has not come to is cancelled.
    pub(crate) fn close(&self) {
        let last = mem::replace(&mut *self.state(), State::Closed);
        // Without the lock.
        drop(last);
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
    let Some(mut parked) = PARKED.try_with(Cell::take).ok().flatten() else { return Err(batch) };
    if parked.runtime != runtime {
        // Its runtime is gone, or about to serve this thread again.
        let _ = PARKED.try_with(|slot| slot.set(Some(parked)));
        return Err(batch);
    }
    let Some(mailbox) = parked.mailbox.take() else { return Err(batch) };
    let mut state = mailbox.state();
    match mem::replace(&mut *state, State::Given(batch)) {
        State::Waiting(waker) => {
            drop(state);
            waker.wake();
            Ok(())
        }
        // Its runtime is gone.
        last => match mem::replace(&mut *state, last) {
            State::Given(batch) => Err(batch),
            _ => Ok(()),
        },
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let Some(mailbox) = &self.mailbox else { return };
        let mut state = mailbox.state();
        // Nobody knows of the runner any more.
        if let State::Waiting(waker) = mem::replace(&mut *state, State::Closed) {
            drop(state);
            waker.wake();
        }
    }
}
