//! Which responses of one connection wait for their last byte, and what each still waits for: a state machine without a lock.
//!
//! A response may have guards: values that lie in what the server holds of it, and are dropped with that. And it may be held:
//! what the server itself has of it, outside of all layers, is not dropped yet. It is sent when it is not held, the guard in its
//! last frame was dropped as written, and the connection has been flushed after that. One without a guard there is known only to
//! be queued when it is let go of, and waits for the server's next turn first, in which that comes to the front.

use slab::Slab;

/// A response that waits. A place may be used again, its serial is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    place: usize,
    serial: u64,
}

/// What the drop of a guard tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server has put it into what it writes.
    Written,
    /// The server has thrown it away.
    Lost,
    /// Something before the server has taken it apart, so that it tells nothing.
    Unknown,
}

/// What is known of a response when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The socket took all of it.
    Sent,
    /// The server had it whole, and has flushed since; how much of it that was, no guard told.
    Queued,
    /// It is lost. So many bytes of its data the socket took at least, where guards told that.
    Lost(Option<u64>),
}

/// Where a response stands that has no guard any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has guards.
    Guarded,
    /// It waits for the server's next turn.
    Turn,
    /// It waits for a flush.
    Flush,
    /// It was flushed.
    Sent,
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent observations, judged together at the end")]
#[derive(Debug)]
struct Wait<T> {
    serial: u64,
    /// Whether its connection has several responses at once, and queues.
    multiplexed: bool,
    /// Whether the server has the response, or is to get it.
    held: bool,
    /// Whether tasks wait for it.
    claimed: bool,
    guards: usize,
    /// How many of these are in a last frame, and whether there was one.
    last_guards: usize,
    last: bool,
    lost: bool,
    unknown: bool,
    /// Whether somebody took the last frame apart and went on.
    asked: bool,
    stage: Stage,
    /// What is to be done, once the layer has let go of the response.
    ended: Option<T>,
    data: Data,
}

/// How much of the data of a response was written, by the guards in it.
#[derive(Debug, Default)]
struct Data {
    /// What was put into what the server writes, in bytes, and what the socket took of that.
    written: u64,
    flushed: u64,
    /// How often the connection had been flushed when more was written.
    flushes: u64,
}

impl Data {
    /// The connection has been flushed so often.
    fn settle(&mut self, flushes: u64) {
        if std::mem::replace(&mut self.flushes, flushes) != flushes {
            self.flushed = self.written;
        }
    }
}

impl<T> Wait<T> {
    /// What is known of a response that was flushed.
    const fn known(&self) -> Known {
        let guarded = self.last && !self.unknown;
        if guarded || !self.multiplexed { Known::Sent } else { Known::Queued }
    }

    /// Whether the guards that count were dropped: the one in the last frame, or where there is none all.
    const fn is_unguarded(&self) -> bool {
        if self.last { self.last_guards == 0 } else { self.guards == 0 }
    }

    /// What was taken apart on the way is asked for what comes after it. A server that gives up asks for nothing.
    const fn given_up(&self) -> bool {
        self.unknown && !self.asked
    }
}

/// The responses of a connection.
#[derive(Debug)]
pub(crate) struct Waits<T> {
    responses: Slab<Wait<T>>,
    turn: Vec<Key>,
    flush: Vec<Key>,
    serial: u64,
    closed: bool,
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Self { responses: Slab::new(), turn: Vec::new(), flush: Vec::new(), serial: 0, closed: false }
    }
}

impl<T> Waits<T> {
    /// A response that the server is to get.
    pub(crate) fn hold(&mut self, multiplexed: bool) -> Option<Key> {
        if self.closed {
            return None;
        }
        let key = self.insert(multiplexed);
        self.get(key)?.held = true;
        Some(key)
    }

    /// Tasks wait for a response. Nothing if there are some already, which another layer has.
    pub(crate) fn claim(&mut self, key: Key) -> Option<Key> {
        let wait = self.get(key)?;
        (!std::mem::replace(&mut wait.claimed, true)).then_some(key)
    }

    pub(crate) fn is_claimed(&mut self, key: Key) -> bool {
        self.get(key).is_some_and(|wait| wait.claimed)
    }

    /// A guard for a frame of a response, of which this is the first if it has no key. Nothing if the connection is gone.
    pub(crate) fn guard(&mut self, key: Option<Key>, last: bool) -> Option<Key> {
        if self.closed {
            return None;
        }
        let key = key.unwrap_or_else(|| self.insert(true));
        let wait = self.get(key)?;
        wait.claimed = true;
        wait.guards += 1;
        wait.last_guards += usize::from(last);
        wait.last |= last;
        wait.stage = Stage::Guarded;
        Some(key)
    }

    /// A guard of so much data was dropped, when the connection had been flushed so often. Returns what is to be done for a
    /// response that is lost by that.
    pub(crate) fn dropped(&mut self, key: Key, fate: Fate, last: bool, bytes: u64, flushes: u64) -> Option<(T, Known)> {
        let wait = self.get(key)?;
        wait.guards -= 1;
        wait.last_guards -= usize::from(last);
        wait.data.settle(flushes);
        match fate {
            Fate::Written => wait.data.written += bytes,
            Fate::Lost => wait.lost = true,
            // It is asked anew whether somebody goes on.
            Fate::Unknown if last => (wait.unknown, wait.asked) = (true, false),
            Fate::Unknown => {}
        }
        self.settle(key, flushes)
    }

    /// How much of the data of a response the socket took at least, when the connection has been flushed so often.
    pub(crate) fn flushed_data(&mut self, key: Key, flushes: u64) -> Option<u64> {
        let wait = self.get(key)?;
        wait.data.settle(flushes);
        Some(wait.data.flushed)
    }

    /// Somebody asks for what comes after the last frame.
    pub(crate) fn asked(&mut self, key: Key) {
        if let Some(wait) = self.get(key) {
            wait.asked |= wait.unknown;
        }
    }

    /// The layer has let go of a response, when the connection had been flushed so often. Returns it, and what is known of it, if
    /// that is settled.
    pub(crate) fn ended(&mut self, key: Option<Key>, ended: T, multiplexed: bool, flushes: u64) -> Option<(T, Known)> {
        let known = key.filter(|key| self.get(*key).is_some());
        let key = if self.closed { known } else { known.or_else(|| Some(self.insert(multiplexed))) };
        let Some((key, wait)) = key.and_then(|key| Some((key, self.get(key)?))) else {
            return Some((ended, Known::Lost(None)));
        };
        wait.claimed = true;
        // Where the server has it still, it is the server that may give up.
        wait.lost |= wait.given_up() && !wait.held;
        wait.ended = Some(ended);
        self.settle(key, flushes)
    }

    /// The server has let go of a response, and has all of it or not, when the connection had been flushed so often. Returns it,
    /// and what is known of it, if that is settled.
    pub(crate) fn let_go(&mut self, key: Key, whole: bool, flushes: u64) -> Option<(T, Known)> {
        let wait = self.get(key)?;
        if !wait.claimed {
            self.responses.remove(key.place);
            return None;
        }
        wait.held = false;
        wait.lost |= !whole || wait.given_up();
        self.settle(key, flushes)
    }

    /// A response is over in another way.
    pub(crate) fn forget(&mut self, key: Key) {
        if self.get(key).is_some() {
            self.responses.remove(key.place);
        }
    }

    /// Does what is to be done for a response when something has changed.
    fn settle(&mut self, key: Key, flushes: u64) -> Option<(T, Known)> {
        let wait = self.get(key)?;
        if !wait.is_unguarded() || wait.held {
            // A frame may be written and flushed before the layers or the server let go.
            if wait.is_unguarded() && wait.last && !wait.lost {
                self.queue(key);
            }
            return None;
        }
        if wait.lost || wait.stage == Stage::Sent {
            let ended = wait.ended.take()?;
            wait.data.settle(flushes);
            let known = if wait.lost { Known::Lost(Some(wait.data.flushed)) } else { wait.known() };
            self.responses.remove(key.place);
            return Some((ended, known));
        }
        self.queue(key);
        None
    }

    /// The server has a turn: what was queued before it comes to the front in it.
    pub(crate) fn turn(&mut self) {
        while let Some(key) = self.turn.pop() {
            if let Some(wait) = self.get(key).filter(|wait| wait.stage == Stage::Turn) {
                wait.stage = Stage::Flush;
                self.flush.push(key);
            }
        }
    }

    /// The connection was flushed: returns a response that was sent by that, until there is no other.
    pub(crate) fn flushed(&mut self) -> Option<(T, Known)> {
        while let Some(key) = self.flush.pop() {
            let Some(wait) = self.get(key) else { continue };
            // A guard may have been added since.
            if wait.stage != Stage::Flush {
                continue;
            }
            wait.stage = Stage::Sent;
            if wait.held {
                continue;
            }
            if let Some(ended) = wait.ended.take() {
                let known = wait.known();
                self.responses.remove(key.place);
                return Some((ended, known));
            }
        }
        None
    }

    /// The connection is gone, which had been flushed so often: returns a response that is lost by that, until there is no
    /// other. What the server has not dropped yet is lost when it does.
    pub(crate) fn close(&mut self, flushes: u64) -> Option<(T, Known)> {
        self.closed = true;
        self.turn.clear();
        self.flush.clear();
        for (place, wait) in &mut self.responses {
            wait.lost = true;
            wait.data.settle(flushes);
            if let Some(ended) = wait.ended.take() {
                let known = Known::Lost(Some(wait.data.flushed));
                self.responses.remove(place);
                return Some((ended, known));
            }
        }
        None
    }

    /// Whether a turn or a flush changes anything.
    pub(crate) fn is_waiting(&self) -> bool {
        self.needs_turn() || !self.flush.is_empty()
    }

    /// Whether the server has to have a turn, which it may not have by itself.
    pub(crate) fn needs_turn(&self) -> bool {
        !self.turn.is_empty()
    }

    fn insert(&mut self, multiplexed: bool) -> Key {
        self.serial += 1;
        let serial = self.serial;
        let wait = Wait {
            serial,
            multiplexed,
            held: false,
            claimed: false,
            guards: 0,
            last_guards: 0,
            last: false,
            lost: false,
            unknown: false,
            asked: false,
            stage: Stage::Guarded,
            ended: None,
            data: Data::default(),
        };
        Key { place: self.responses.insert(wait), serial }
    }

    fn get(&mut self, key: Key) -> Option<&mut Wait<T>> {
        self.responses.get_mut(key.place).filter(|wait| wait.serial == key.serial)
    }

    /// Has a response wait for what comes next, if it does not wait yet.
    fn queue(&mut self, key: Key) {
        let Some(wait) = self.get(key) else { return };
        // Without a guard that tells, it is at the earliest queued when it was let go of.
        let turn = wait.known() == Known::Queued;
        match (wait.stage, turn) {
            (Stage::Guarded | Stage::Turn, false) => {
                wait.stage = Stage::Flush;
                self.flush.push(key);
            }
            (Stage::Guarded, true) if wait.ended.is_some() && !wait.held => {
                wait.stage = Stage::Turn;
                self.turn.push(key);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "sent_waits_tests.rs"]
mod tests;
