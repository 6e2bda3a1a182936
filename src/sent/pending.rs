//! [`PendingResponses`]: which responses of one connection wait for their last byte.
//!
//! This is a state machine without a lock. It knows two facts about a response:
//!
//! - Guards. A guard lies in a frame, and is dropped with that frame.
//! - Whether it is in flight. The server has not dropped it yet, whatever the layers inside of the
//!   server have done with the body.
//!
//! A response is sent when it is not in flight, the guard of its last frame was dropped after the
//! write, and the connection was flushed after that. If the last frame has no guard, the response
//! may still be in the server's queue when the server drops it. Such a response first waits for a
//! read cycle of the server, which empties the queue as far as possible, and then for a flush.

use slab::Slab;

use super::entry::{Dropped, Entry, Over, Stage};

/// Identifies a response. A place in the table is used again, but a serial number is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseKey {
    index: usize,
    serial: u64,
}

/// A frame that has a guard.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuardedFrame {
    pub(super) key: ResponseKey,
    /// Whether it is the last frame of the response.
    pub(super) is_last: bool,
    /// How many bytes of the body's data it has.
    pub(super) bytes: u64,
}

/// The responses of a connection. `T` is what a layer leaves of a response when it drops the body.
///
/// The argument `flushes` says how often the connection has been flushed. Methods that return an
/// [`Over`] return a response that is over.
#[derive(Debug)]
pub(super) struct PendingResponses<T> {
    /// The responses, each with its serial number.
    responses: Slab<(u64, Entry<T>)>,
    /// Responses that wait for a read cycle.
    read_cycle: Vec<ResponseKey>,
    /// Responses that wait for a flush.
    flush: Vec<ResponseKey>,
    last_serial: u64,
    closed: bool,
}

impl<T> Default for PendingResponses<T> {
    fn default() -> Self {
        Self {
            responses: Slab::new(),
            read_cycle: Vec::new(),
            flush: Vec::new(),
            last_serial: 0,
            closed: false,
        }
    }
}

impl<T> PendingResponses<T> {
    /// Adds a response that is in flight. On a closed connection it is lost when the layer and the
    /// server drop it.
    pub(super) fn open(&mut self, multiplexed: bool) -> ResponseKey {
        let mut entry = Entry::new(multiplexed);
        if self.closed {
            entry.lose();
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let index = self.responses.insert((serial, entry));
        ResponseKey { index, serial }
    }

    /// Notes that another layer follows the response. Returns whether it is the only one, or `None`
    /// if the response is over.
    pub(super) fn add_layer(&mut self, key: ResponseKey) -> Option<bool> {
        self.get(key).map(Entry::add_layer)
    }

    /// Adds a guard for a frame. Returns whether it is needed: the connection is open, and a layer
    /// follows the response or waits for it.
    pub(super) fn add_guard(&mut self, key: ResponseKey, is_last: bool) -> bool {
        if self.closed {
            return false;
        }
        let entry = self.get(key).filter(|entry| entry.is_followed());
        entry.map(|entry| entry.add_guard(is_last)).is_some()
    }

    /// Notes that a frame with a guard was dropped.
    pub(super) fn guard_dropped(
        &mut self,
        frame: GuardedFrame,
        dropped: Dropped,
        flushes: u64,
    ) -> Over<T> {
        self.get(frame.key)?
            .guard_dropped(frame.is_last, frame.bytes, dropped, flushes);
        self.advance(frame.key, flushes)
    }

    /// Returns how many bytes of the data of a response the socket took at least.
    pub(super) fn flushed_data(&mut self, key: ResponseKey, flushes: u64) -> Option<u64> {
        Some(self.get(key)?.flushed_data(flushes))
    }

    /// Notes that the body was polled.
    pub(super) fn note_poll(&mut self, key: ResponseKey) {
        if let Some(entry) = self.get(key) {
            entry.note_poll();
        }
    }

    /// Notes that a layer that follows the response dropped the body.
    pub(super) fn layer_dropped(&mut self, key: ResponseKey, ended: T, flushes: u64) -> Over<T> {
        self.get(key)?.layer_dropped(ended);
        self.advance(key, flushes)
    }

    /// Notes that the server dropped a response, and whether it had all of it.
    pub(super) fn server_dropped(
        &mut self,
        key: ResponseKey,
        is_whole: bool,
        flushes: u64,
    ) -> Over<T> {
        self.get(key)?.server_dropped(is_whole);
        self.advance(key, flushes)
    }

    /// Notes that a layer no longer follows a response, because that ended in another way.
    pub(super) fn remove_layer(&mut self, key: ResponseKey) {
        if let Some(entry) = self.get(key) {
            entry.remove_layer();
            self.remove_done(key.index);
        }
    }

    /// Notes that the server has read all there was. It now writes what it had queued before.
    pub(super) fn note_read_cycle(&mut self) {
        while let Some(key) = self.read_cycle.pop() {
            if let Some(entry) = self.get_at(key, Stage::ReadCycle) {
                entry.set_stage(Stage::Flush);
                self.flush.push(key);
            }
        }
    }

    /// Notes that the connection was flushed. Call it until it returns `None`.
    pub(super) fn note_flush(&mut self, flushes: u64) -> Over<T> {
        while let Some(key) = self.flush.pop() {
            if let Some(entry) = self.get_at(key, Stage::Flush) {
                entry.set_stage(Stage::Flushed);
                if let Some(over) = self.advance(key, flushes) {
                    return Some(over);
                }
            }
        }
        None
    }

    /// Notes that the connection is closed. Call it until it returns `None`. Responses that the
    /// layer has not dropped yet are lost when it does.
    pub(super) fn close(&mut self, flushes: u64) -> Over<T> {
        self.closed = true;
        self.read_cycle.clear();
        self.flush.clear();
        let mut responses = self.responses.iter_mut();
        let (index, over) =
            responses.find_map(|(index, (_, entry))| Some((index, entry.close(flushes)?)))?;
        self.remove_done(index);
        Some(over)
    }

    /// Returns whether a read cycle or a flush changes anything.
    pub(super) fn is_waiting(&self) -> bool {
        self.needs_read_cycle() || !self.flush.is_empty()
    }

    /// Returns whether the server must run a read cycle. An idle server does not run one unless it
    /// is woken.
    pub(super) fn needs_read_cycle(&self) -> bool {
        !self.read_cycle.is_empty()
    }

    /// Returns a response that is over, or lets it wait for what comes next.
    fn advance(&mut self, key: ResponseKey, flushes: u64) -> Over<T> {
        let entry = self.get(key)?;
        let over = entry.take_over(flushes);
        if over.is_some() || entry.is_done() {
            self.remove_done(key.index);
        } else if let Some(stage) = entry.next_stage() {
            entry.set_stage(stage);
            match stage {
                Stage::ReadCycle => self.read_cycle.push(key),
                Stage::Flush => self.flush.push(key),
                Stage::Drop | Stage::Flushed => {}
            }
        }
        over
    }

    /// Removes a response that nobody follows any more, and nobody waits for.
    fn remove_done(&mut self, index: usize) {
        if self.responses[index].1.is_done() {
            self.responses.remove(index);
        }
    }

    /// Returns a response if it still waits at this stage. A guard may have been added since it
    /// began to wait.
    fn get_at(&mut self, key: ResponseKey, stage: Stage) -> Option<&mut Entry<T>> {
        self.get(key).filter(|entry| entry.stage() == stage)
    }

    fn get(&mut self, key: ResponseKey) -> Option<&mut Entry<T>> {
        self.responses
            .get_mut(key.index)
            .filter(|(serial, _)| *serial == key.serial)
            .map(|(_, entry)| entry)
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
