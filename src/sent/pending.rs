//! [`PendingResponses`]: which responses of one connection wait for their last byte.
//!
//! This is a state machine without a lock. A response can have guards. A guard lies in a frame, and
//! is dropped with that frame. A response can also be in flight: the server has not dropped it yet,
//! whatever the layers in between have done with the body.
//!
//! A response is sent when it is not in flight, the guard of its last frame was dropped after the
//! write, and the connection was flushed after that. If the last frame has no guard, the server
//! only has it in its queue when it drops the response. Such a response first waits for a read
//! cycle of the server, in which the queue is emptied as far as possible, and then for a flush.

use slab::Slab;

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

/// How a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The server copied it into its write buffer, or wrote it.
    Written,
    /// The server discarded it.
    Discarded,
    /// A layer before the server took the frame apart, so the drop says nothing.
    Unknown,
}

/// What is known of a response when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendResult {
    /// The socket took all of it.
    Sent,
    /// The server had all of it, and has flushed since. No guard says how much of the response that
    /// flush wrote.
    Queued,
    /// It is lost. The socket took at least this many bytes of its data, if guards could tell.
    Lost(Option<u64>),
}

/// What a response waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The drop of its guards, or of the response itself.
    Drop,
    /// The next read cycle of the server.
    ReadCycle,
    /// The next flush.
    Flush,
    /// Nothing: it was flushed.
    Flushed,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent observations, judged together at the end"
)]
#[derive(Debug)]
struct Entry<T> {
    serial: u64,
    /// Whether the connection sends several responses at once, from a queue.
    multiplexed: bool,
    /// Whether the server has the response, or will get it.
    in_flight: bool,
    /// Whether tasks wait for it.
    claimed: bool,
    guards: usize,
    /// How many of the guards are in a last frame.
    last_guards: usize,
    /// Whether a last frame had a guard.
    has_last: bool,
    lost: bool,
    /// Whether a layer took the last frame apart.
    taken_apart: bool,
    /// Whether the body was polled after that.
    polled_again: bool,
    stage: Stage,
    /// What the layer left when it dropped the body.
    ended: Option<T>,
    data: Data,
}

/// How much of the data of a response was written, by its guards.
#[derive(Debug, Default)]
struct Data {
    /// The bytes that the server wrote or buffered.
    written: u64,
    /// The bytes of these that the socket took.
    flushed: u64,
    /// How often the connection had been flushed when `written` was last changed.
    flushes: u64,
}

impl Data {
    /// Counts what was written before the last flush as flushed.
    fn update(&mut self, flushes: u64) {
        if std::mem::replace(&mut self.flushes, flushes) != flushes {
            self.flushed = self.written;
        }
    }
}

impl<T> Entry<T> {
    /// Returns what is known of the response if it was flushed.
    const fn result(&self) -> SendResult {
        let is_guarded = self.has_last && !self.taken_apart;
        if is_guarded || !self.multiplexed {
            SendResult::Sent
        } else {
            SendResult::Queued
        }
    }

    /// Returns whether the guards that count were dropped: that of the last frame, or all guards if
    /// the last frame has none.
    const fn is_unguarded(&self) -> bool {
        if self.has_last {
            self.last_guards == 0
        } else {
            self.guards == 0
        }
    }

    /// Returns whether the last frame was discarded. A layer that took it apart polls the body
    /// again, a server that gives up does not.
    const fn is_given_up(&self) -> bool {
        self.taken_apart && !self.polled_again
    }
}

/// The responses of a connection. `T` is what the layer leaves of a response when it drops the
/// body.
///
/// Many methods take how often the connection has been flushed. Those that return an `Option<(T,
/// SendResult)>` return a response that is over.
#[derive(Debug)]
pub(super) struct PendingResponses<T> {
    responses: Slab<Entry<T>>,
    read_cycle: Vec<ResponseKey>,
    flush: Vec<ResponseKey>,
    serial: u64,
    closed: bool,
}

impl<T> Default for PendingResponses<T> {
    fn default() -> Self {
        Self {
            responses: Slab::new(),
            read_cycle: Vec::new(),
            flush: Vec::new(),
            serial: 0,
            closed: false,
        }
    }
}

impl<T> PendingResponses<T> {
    /// Adds a response that is in flight. Returns `None` if the connection is closed.
    pub(super) fn open(&mut self, multiplexed: bool) -> Option<ResponseKey> {
        if self.closed {
            return None;
        }
        let key = self.insert(multiplexed);
        self.get(key)?.in_flight = true;
        Some(key)
    }

    /// Notes that tasks wait for a response. Returns `false` if another layer has noted that, or
    /// the response is gone.
    pub(super) fn claim(&mut self, key: ResponseKey) -> bool {
        self.get(key)
            .is_some_and(|entry| !std::mem::replace(&mut entry.claimed, true))
    }

    pub(super) fn is_claimed(&mut self, key: ResponseKey) -> bool {
        self.get(key).is_some_and(|entry| entry.claimed)
    }

    /// Adds a guard for a frame. Without a key, it is the first frame of a new response. Returns
    /// `None` if the connection is closed.
    pub(super) fn add_guard(
        &mut self,
        key: Option<ResponseKey>,
        is_last: bool,
    ) -> Option<ResponseKey> {
        if self.closed {
            return None;
        }
        let key = key.unwrap_or_else(|| self.insert(true));
        let entry = self.get(key)?;
        entry.claimed = true;
        entry.guards += 1;
        entry.last_guards += usize::from(is_last);
        entry.has_last |= is_last;
        entry.stage = Stage::Drop;
        Some(key)
    }

    /// Notes that a frame with a guard was dropped.
    pub(super) fn guard_dropped(
        &mut self,
        frame: GuardedFrame,
        dropped: Dropped,
        flushes: u64,
    ) -> Option<(T, SendResult)> {
        let entry = self.get(frame.key)?;
        entry.guards -= 1;
        entry.last_guards -= usize::from(frame.is_last);
        entry.data.update(flushes);
        match dropped {
            Dropped::Written => entry.data.written += frame.bytes,
            Dropped::Discarded => entry.lost = true,
            // The layer must poll once more for this frame.
            Dropped::Unknown if frame.is_last => {
                (entry.taken_apart, entry.polled_again) = (true, false);
            }
            Dropped::Unknown => {}
        }
        self.advance(frame.key, flushes)
    }

    /// Returns how many bytes of the data of a response the socket took at least.
    pub(super) fn flushed_data(&mut self, key: ResponseKey, flushes: u64) -> Option<u64> {
        let entry = self.get(key)?;
        entry.data.update(flushes);
        Some(entry.data.flushed)
    }

    /// Notes that the body was polled.
    pub(super) fn note_poll(&mut self, key: ResponseKey) {
        if let Some(entry) = self.get(key) {
            entry.polled_again |= entry.taken_apart;
        }
    }

    /// Notes that the layer dropped the body of a response. Without a key, the response had no
    /// guard.
    pub(super) fn layer_dropped(
        &mut self,
        key: Option<ResponseKey>,
        ended: T,
        multiplexed: bool,
        flushes: u64,
    ) -> Option<(T, SendResult)> {
        let known = key.filter(|key| self.get(*key).is_some());
        let key = if self.closed {
            known
        } else {
            known.or_else(|| Some(self.insert(multiplexed)))
        };
        let Some((key, entry)) = key.and_then(|key| Some((key, self.get(key)?))) else {
            return Some((ended, SendResult::Lost(None)));
        };
        entry.claimed = true;
        // If the response is in flight, the server decides whether it is given up.
        entry.lost |= entry.is_given_up() && !entry.in_flight;
        entry.ended = Some(ended);
        self.advance(key, flushes)
    }

    /// Notes that the server dropped a response, and whether it had all of it.
    pub(super) fn server_dropped(
        &mut self,
        key: ResponseKey,
        is_whole: bool,
        flushes: u64,
    ) -> Option<(T, SendResult)> {
        let entry = self.get(key)?;
        if !entry.claimed {
            self.responses.remove(key.index);
            return None;
        }
        entry.in_flight = false;
        entry.lost |= !is_whole || entry.is_given_up();
        self.advance(key, flushes)
    }

    /// Removes a response that ended in another way.
    pub(super) fn remove(&mut self, key: ResponseKey) {
        if self.get(key).is_some() {
            self.responses.remove(key.index);
        }
    }

    /// Moves a response to the stage that it has reached.
    fn advance(&mut self, key: ResponseKey, flushes: u64) -> Option<(T, SendResult)> {
        let entry = self.get(key)?;
        if !entry.is_unguarded() || entry.in_flight {
            // A frame can be written and flushed before the layer or the server drops the response.
            if entry.is_unguarded() && entry.has_last && !entry.lost {
                self.enqueue(key);
            }
            return None;
        }
        if entry.lost || entry.stage == Stage::Flushed {
            let ended = entry.ended.take()?;
            entry.data.update(flushes);
            let result = if entry.lost {
                SendResult::Lost(Some(entry.data.flushed))
            } else {
                entry.result()
            };
            self.responses.remove(key.index);
            return Some((ended, result));
        }
        self.enqueue(key);
        None
    }

    /// Notes that the server has read all there was. It now writes what it had queued before.
    pub(super) fn note_read_cycle(&mut self) {
        while let Some(key) = self.read_cycle.pop() {
            if let Some(entry) = self
                .get(key)
                .filter(|entry| entry.stage == Stage::ReadCycle)
            {
                entry.stage = Stage::Flush;
                self.flush.push(key);
            }
        }
    }

    /// Notes that the connection was flushed. Call it until it returns `None`.
    pub(super) fn note_flush(&mut self) -> Option<(T, SendResult)> {
        while let Some(key) = self.flush.pop() {
            let Some(entry) = self.get(key) else { continue };
            // A guard may have been added since.
            if entry.stage != Stage::Flush {
                continue;
            }
            entry.stage = Stage::Flushed;
            if entry.in_flight {
                continue;
            }
            if let Some(ended) = entry.ended.take() {
                let result = entry.result();
                self.responses.remove(key.index);
                return Some((ended, result));
            }
        }
        None
    }

    /// Notes that the connection is closed. Call it until it returns `None`. Responses that the
    /// server has not dropped yet are lost when it does.
    pub(super) fn close(&mut self, flushes: u64) -> Option<(T, SendResult)> {
        self.closed = true;
        self.read_cycle.clear();
        self.flush.clear();
        for (index, entry) in &mut self.responses {
            entry.lost = true;
            entry.data.update(flushes);
            if let Some(ended) = entry.ended.take() {
                let result = SendResult::Lost(Some(entry.data.flushed));
                self.responses.remove(index);
                return Some((ended, result));
            }
        }
        None
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

    fn insert(&mut self, multiplexed: bool) -> ResponseKey {
        self.serial += 1;
        let serial = self.serial;
        let entry = Entry {
            serial,
            multiplexed,
            in_flight: false,
            claimed: false,
            guards: 0,
            last_guards: 0,
            has_last: false,
            lost: false,
            taken_apart: false,
            polled_again: false,
            stage: Stage::Drop,
            ended: None,
            data: Data::default(),
        };
        ResponseKey {
            index: self.responses.insert(entry),
            serial,
        }
    }

    fn get(&mut self, key: ResponseKey) -> Option<&mut Entry<T>> {
        self.responses
            .get_mut(key.index)
            .filter(|entry| entry.serial == key.serial)
    }

    /// Lets a response wait for what comes next, if it does not wait yet.
    fn enqueue(&mut self, key: ResponseKey) {
        let Some(entry) = self.get(key) else { return };
        // Without a guard in its last frame, the response may have just entered the server's queue.
        let needs_read_cycle = entry.result() == SendResult::Queued;
        match (entry.stage, needs_read_cycle) {
            (Stage::Drop | Stage::ReadCycle, false) => {
                entry.stage = Stage::Flush;
                self.flush.push(key);
            }
            (Stage::Drop, true) if entry.ended.is_some() && !entry.in_flight => {
                entry.stage = Stage::ReadCycle;
                self.read_cycle.push(key);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
