//! What an ended response leaves for the next one on the same thread: its memory, so that most requests need none of their own.
//!
//! A thread keeps one: responses begin and end in turn on it, also where many are open at once. What is kept holds nothing of
//! its request, nor the supervisor.

use std::cell::Cell;

use crate::{lease::Open, sync, tasks::BackgroundTasks};

thread_local! {
    static SPARE: Cell<Option<Box<Open>>> = const { Cell::new(None) };
}

/// One that is as new, at best with a registry.
#[inline]
pub(crate) fn take() -> Option<Box<Open>> {
    // On a thread that ends there is none.
    SPARE.try_with(Cell::take).ok().flatten()
}

/// Leaves one that is as new. It holds nothing of its request.
#[inline]
pub(crate) fn keep(open: Box<Open>) {
    if sync::KEEPS_SPARES {
        let _ = SPARE.try_with(|spare| spare.set(Some(open)));
    }
}

/// Leaves a registry that serves no request any more.
pub(crate) fn keep_registry(tasks: &BackgroundTasks) {
    if sync::KEEPS_SPARES {
        let _ = SPARE.try_with(|spare| {
            let mut open = spare.take().unwrap_or_default();
            open.put_spare(tasks.clone());
            spare.set(Some(open));
        });
    }
}
