//! [`ConnectionState`]: what the stream, the server and the layer share about one tracked
//! connection.

use std::{cell::Cell, fmt, ptr, task::Waker};

use tokio::task::{Id, try_id};

use super::{
    entry::{Dropped, Ended, Over, SendResult},
    pending::{GuardedFrame, PendingResponses, ResponseKey},
    write_progress::WriteProgress,
};
use crate::util::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
    lock,
};

thread_local! {
    /// The task that last used a stream on this thread, and the connection of that stream. A frame
    /// that this task drops is dropped by the server of this connection.
    ///
    /// The pointer is only compared. No other connection has the same address, because a frame
    /// keeps its connection.
    static LAST_USED: Cell<Option<(Id, *const ConnectionState)>> = const { Cell::new(None) };
}

/// See the module's documentation. Only the task that serves the connection calls the methods about
/// reads and writes.
#[derive(Default)]
pub(super) struct ConnectionState {
    locked: Mutex<Locked>,
    /// Whether a read cycle or a flush changes anything. Most of them then need no lock.
    is_waiting: AtomicBool,
    /// Whether the server handles data that it has just read. It discards the frames that it drops
    /// meanwhile, and has not written them.
    is_reading: AtomicBool,
    /// Whether `Locked::undecided` has frames. Most of the time it has none, and needs no lock.
    has_undecided: AtomicBool,
    /// Whether a layer took the last frame of some response apart. Most connections have no such
    /// layer, so their polls need no lock.
    has_taken_apart: AtomicBool,
    progress: WriteProgress,
}

#[derive(Default)]
struct Locked {
    pending: PendingResponses<Box<dyn Pending>>,
    /// Dropped frames. The next use of the stream shows whether the server had written them.
    undecided: Vec<Undecided>,
    /// Wakes the task that serves the connection.
    waker: Option<Waker>,
}

/// A frame that the server has written, copied or discarded.
struct Undecided {
    frame: GuardedFrame,
    /// How many bytes of its data the stream had not accepted when the frame was dropped. If the
    /// server has copied them, the next write offers them.
    missing: u64,
}

/// What becomes of the frames that the server has dropped since it last used the stream.
#[derive(Clone, Copy)]
enum NextUse {
    Read,
    /// A write that offers so many bytes.
    Write(u64),
}

/// A response whose body the layer has dropped, and that waits for its last byte.
pub(super) trait Pending: Send {
    /// Ends the response.
    fn finish(&mut self, result: SendResult);
}

fn finish(ended: Ended<Box<dyn Pending>>, result: SendResult) {
    for mut response in ended.each() {
        response.finish(result);
    }
}

/// What the stream reports.
impl ConnectionState {
    /// The server is about to read. It discarded the frames that it dropped since it last used the
    /// stream.
    #[inline]
    pub(super) fn before_read(&self) {
        self.note_use(NextUse::Read);
    }

    /// The server has read. If there was data, it handles that data until it uses the stream again.
    #[inline]
    pub(super) fn after_read(&self, has_data: bool) {
        self.is_reading.store(has_data, Ordering::Relaxed);
    }

    /// The server is about to write so many bytes, or to flush. What it has copied of the frames
    /// that it dropped since it last used the stream is among these bytes.
    #[inline]
    pub(super) fn before_write(&self, offered: usize) {
        self.is_reading.store(false, Ordering::Relaxed);
        self.note_use(NextUse::Write(offered as u64));
    }

    /// Another task serves the connection from now on.
    pub(super) fn set_waker(&self, waker: Waker) {
        let replaced = self.lock().waker.replace(waker);
        // Dropped after the lock, because the waker may hold the last reference to another task.
        drop(replaced);
    }

    /// The server has read all there was, so next it writes the frames in its queue. Call it after
    /// [`set_waker`](Self::set_waker).
    #[inline]
    pub(super) fn note_read_cycle(&self) {
        // A thread that adds a response later finds the waker, and wakes this task.
        if self.is_waiting.load(Ordering::Acquire) {
            self.end_read_cycle();
        }
    }

    #[cold]
    fn end_read_cycle(&self) {
        let mut locked = self.lock();
        locked.pending.note_read_cycle();
        self.publish(&locked);
    }

    /// The server has flushed: the socket took all that was written.
    pub(super) fn note_flush(&self) {
        self.progress.note_flush();
        // Pairs with the store in `publish`. A response that another thread adds later waits for a
        // later read cycle, and that thread wakes this task for it.
        while self.is_waiting.load(Ordering::Acquire) {
            let mut locked = self.lock();
            let sent = locked.pending.note_flush(self.progress.flushes());
            self.publish(&locked);
            drop(locked);
            match sent {
                Some((response, result)) => finish(response, result),
                None => return,
            }
        }
    }

    /// The connection is closed. Responses that were not flushed are lost.
    pub(super) fn close(&self) {
        self.decide(NextUse::Read);
        loop {
            let mut locked = self.lock();
            let lost = locked.pending.close(self.progress.flushes());
            let waker = locked.waker.take();
            drop(locked);
            drop(waker);
            match lost {
                Some((response, result)) => finish(response, result),
                None => return,
            }
        }
    }

    pub(super) const fn progress(&self) -> &WriteProgress {
        &self.progress
    }
}

/// What the layer and the server do with responses. See [`PendingResponses`].
impl ConnectionState {
    pub(super) fn open(&self, multiplexed: bool) -> ResponseKey {
        self.lock().pending.open(multiplexed)
    }

    pub(super) fn add_layer(&self, key: ResponseKey) -> Option<bool> {
        self.lock().pending.add_layer(key)
    }

    pub(super) fn add_guard(&self, key: ResponseKey, is_last: bool) -> bool {
        self.lock().pending.add_guard(key, is_last)
    }

    #[inline]
    pub(super) fn note_poll(&self, key: ResponseKey) {
        // The layer that took a frame apart polls after that, so it sees the flag.
        if self.has_taken_apart.load(Ordering::Relaxed) {
            self.note_poll_after_frame(key);
        }
    }

    /// Kept apart from [`note_poll`](Self::note_poll), which servers call several times for a
    /// response.
    #[cold]
    fn note_poll_after_frame(&self, key: ResponseKey) {
        self.lock().pending.note_poll(key);
    }

    /// The server dropped a response. `is_whole` says whether it had all of it.
    pub(super) fn server_dropped(&self, key: ResponseKey, is_whole: bool) {
        self.change(|locked, flushes| locked.pending.server_dropped(key, is_whole, flushes));
    }

    /// The layer dropped a body. The response ends when it is sent or lost.
    pub(super) fn layer_dropped(&self, key: ResponseKey, response: Box<dyn Pending>) {
        self.change(|locked, flushes| locked.pending.layer_dropped(key, response, flushes));
    }

    /// The guard of a frame was dropped. The frame had `length` bytes of data. When the frame was
    /// created, the connection had accepted `accepted_before` bytes.
    pub(super) fn guard_dropped(&self, frame: GuardedFrame, length: u64, accepted_before: u64) {
        if !self.is_served_here() {
            self.has_taken_apart.store(true, Ordering::Relaxed);
            self.note_dropped(frame, Dropped::Unknown);
        } else if self.is_reading.load(Ordering::Relaxed) {
            self.note_dropped(frame, Dropped::Discarded);
        } else {
            let accepted = self.progress.accepted().wrapping_sub(accepted_before);
            let missing = length.saturating_sub(accepted);
            let mut locked = self.lock();
            locked.undecided.push(Undecided { frame, missing });
            self.has_undecided.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn flushed_data(&self, key: ResponseKey) -> Option<u64> {
        self.lock()
            .pending
            .flushed_data(key, self.progress.flushes())
    }

    pub(super) fn remove_layer(&self, key: ResponseKey) {
        self.lock().pending.remove_layer(key);
    }
}

impl ConnectionState {
    /// Notes that the running task uses the stream, and what became of the frames that it dropped
    /// before.
    #[inline]
    fn note_use(&self, next: NextUse) {
        // Over HTTP/1 no frame has a guard.
        if !self.progress.serves_http1() {
            LAST_USED.set(try_id().map(|task| (task, ptr::from_ref(self))));
            if self.has_undecided.load(Ordering::Relaxed) {
                self.decide(next);
            }
        }
    }

    /// Returns whether the running task is the one that serves the connection.
    fn is_served_here(&self) -> bool {
        let last = LAST_USED.get();
        last.is_some_and(|(task, connection)| ptr::eq(connection, self) && try_id() == Some(task))
    }

    /// Decides how the undecided frames were dropped. Only the task that serves the connection adds
    /// such frames and calls this.
    fn decide(&self, next: NextUse) {
        while self.has_undecided.load(Ordering::Relaxed) {
            self.change(|locked, flushes| {
                let Undecided { frame, missing } = locked.undecided.pop()?;
                self.has_undecided
                    .store(!locked.undecided.is_empty(), Ordering::Relaxed);
                let dropped = match next {
                    NextUse::Write(offered) if missing <= offered => Dropped::Written,
                    _ => Dropped::Discarded,
                };
                locked.pending.guard_dropped(frame, dropped, flushes)
            });
        }
    }

    fn note_dropped(&self, frame: GuardedFrame, dropped: Dropped) {
        self.change(|locked, flushes| locked.pending.guard_dropped(frame, dropped, flushes));
    }

    /// Changes the pending responses, and ends a response that is over then.
    fn change(&self, change: impl FnOnce(&mut Locked, u64) -> Over<Box<dyn Pending>>) {
        let mut locked = self.lock();
        let over = change(&mut locked, self.progress.flushes());
        self.changed(locked, over);
    }

    /// Does what comes after each change, apart from the code of the changes.
    fn changed(&self, locked: MutexGuard<'_, Locked>, over: Over<Box<dyn Pending>>) {
        self.publish(&locked);
        // A server with nothing to read or to write runs no read cycle unless it is woken.
        let needs_wake = locked.pending.needs_read_cycle();
        let waker = if needs_wake {
            locked.waker.clone()
        } else {
            None
        };
        drop(locked);
        if let Some((response, result)) = over {
            finish(response, result);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tells [`note_flush`](Self::note_flush) whether a response waits.
    fn publish(&self, locked: &Locked) {
        self.is_waiting
            .store(locked.pending.is_waiting(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        lock(&self.locked)
    }
}

impl fmt::Debug for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionState").finish_non_exhaustive()
    }
}
