//! Which responses of one connection wait for their last byte, and what each still waits for: a state machine without a lock.
//!
//! A response may have guards: values that lie in what the server holds of it, and are dropped with that. It is sent when its
//! guards were dropped as written, and the connection has been flushed after that. One without guards that is known only to
//! be queued waits for the server's next turn first, in which that comes to the front.

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
    guards: usize,
    lost: bool,
    unknown: bool,
    /// Whether somebody took the last frame apart and went on.
    asked: bool,
    stage: Stage,
    /// What is to be done, once the server has dropped the response.
    ended: Option<T>,
    forgotten: bool,
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
    /// A guard for a response, of which this is the first if it has no key. Nothing if the connection is gone.
    pub(crate) fn guard(&mut self, key: Option<Key>) -> Option<Key> {
        if self.closed {
            return None;
        }
        let key = key.unwrap_or_else(|| self.insert(Stage::Guarded));
        let wait = self.get(key)?;
        wait.guards += 1;
        wait.stage = Stage::Guarded;
        Some(key)
    }

    /// A guard was dropped. Returns what is to be done for a response that is lost by that.
    pub(crate) fn dropped(&mut self, key: Key, fate: Fate) -> Option<T> {
        let wait = self.get(key)?;
        wait.guards -= 1;
        wait.lost |= fate == Fate::Lost;
        wait.unknown |= fate == Fate::Unknown;
        if wait.guards > 0 {
            return None;
        }
        if wait.forgotten || (wait.lost && wait.ended.is_some()) {
            return self.responses.remove(key.place).ended;
        }
        if !wait.lost {
            self.queue(key);
        }
        None
    }

    /// Somebody asks for what comes after the last frame.
    pub(crate) fn asked(&mut self, key: Key) {
        if let Some(wait) = self.get(key) {
            wait.asked |= wait.unknown;
        }
    }

    /// The server has dropped a response. Returns it, and whether it was sent, if that is settled.
    pub(crate) fn ended(&mut self, key: Option<Key>, ended: T, multiplexed: bool) -> Option<(T, bool)> {
        if self.closed {
            return Some((ended, false));
        }
        let key = key.unwrap_or_else(|| self.insert(if multiplexed { Stage::Turn } else { Stage::Flush }));
        let Some(wait) = self.get(key) else { return Some((ended, false)) };
        // What was taken apart on the way is asked for what comes after it. A server that gives up asks for nothing.
        wait.lost |= wait.unknown && !wait.asked;
        if wait.guards == 0 && (wait.lost || wait.stage == Stage::Sent) {
            let sent = !wait.lost;
            self.responses.remove(key.place);
            return Some((ended, sent));
        }
        wait.ended = Some(ended);
        if wait.guards == 0 && (wait.stage == Stage::Turn || !multiplexed) {
            self.queue(key);
        }
        None
    }

    /// A response is over in another way.
    pub(crate) fn forget(&mut self, key: Key) {
        let Some(wait) = self.get(key) else { return };
        wait.forgotten = true;
        if wait.guards == 0 {
            self.responses.remove(key.place);
        }
    }

    /// The server has a turn: what was queued before it comes to the front in it.
    pub(crate) fn turn(&mut self) {
        while let Some(key) = self.turn.pop() {
            if let Some(wait) = self.get(key) {
                wait.stage = Stage::Flush;
                self.flush.push(key);
            }
        }
    }

    /// The connection was flushed: returns a response that was sent by that, until there is no other.
    pub(crate) fn flushed(&mut self) -> Option<T> {
        while let Some(key) = self.flush.pop() {
            let Some(wait) = self.get(key) else { continue };
            // A guard may have been added since.
            if wait.stage != Stage::Flush {
                continue;
            }
            wait.stage = Stage::Sent;
            if wait.ended.is_some() {
                return self.responses.remove(key.place).ended;
            }
        }
        None
    }

    /// The connection is gone: returns a response that is lost by that, until there is no other.
    pub(crate) fn close(&mut self) -> Option<T> {
        self.closed = true;
        self.turn.clear();
        self.flush.clear();
        while let Some((place, _)) = self.responses.iter().next() {
            if let Some(ended) = self.responses.remove(place).ended {
                return Some(ended);
            }
        }
        None
    }

    /// Whether a turn or a flush changes anything.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.turn.is_empty() || !self.flush.is_empty()
    }

    fn insert(&mut self, stage: Stage) -> Key {
        self.serial += 1;
        let serial = self.serial;
        let wait = Wait { serial, guards: 0, lost: false, unknown: false, asked: false, stage, ended: None, forgotten: false };
        Key { place: self.responses.insert(wait), serial }
    }

    fn get(&mut self, key: Key) -> Option<&mut Wait<T>> {
        self.responses.get_mut(key.place).filter(|wait| wait.serial == key.serial)
    }

    fn queue(&mut self, key: Key) {
        let Some(wait) = self.get(key) else { return };
        // What is unknown is at the earliest queued when the server has dropped the response.
        let turn = wait.stage == Stage::Turn || wait.unknown;
        wait.stage = if turn { Stage::Turn } else { Stage::Flush };
        if !turn {
            self.flush.push(key);
        } else if wait.ended.is_some() {
            self.turn.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_apart_waits_for_a_turn_and_then_a_flush() {
        let mut waits = Waits::default();
        let key = waits.guard(None);
        let known = key.expect("it is open");
        assert_eq!(waits.dropped(known, Fate::Unknown), None);
        waits.asked(known);
        assert_eq!(waits.ended(key, "response", true), None);
        assert_eq!(waits.flushed(), None, "the server may not have come to it");
        waits.turn();
        assert_eq!(waits.flushed(), Some("response"));
        assert!(!waits.is_waiting());
    }

    #[test]
    fn what_was_dropped_and_not_asked_for_more_is_lost() {
        let mut waits = Waits::default();
        let key = waits.guard(None);
        assert_eq!(waits.dropped(key.expect("it is open"), Fate::Unknown), None);
        assert_eq!(waits.ended(key, "response", true), Some(("response", false)));
    }

    #[test]
    fn each_guard_counts() {
        let mut waits = Waits::default();
        let key = waits.guard(None);
        let known = key.expect("it is open");
        assert_eq!(waits.guard(key), key);
        assert_eq!(waits.dropped(known, Fate::Written), None);
        assert_eq!(waits.ended(key, "response", true), None);
        assert_eq!(waits.flushed(), None, "one guard is still held");
        assert_eq!(waits.dropped(known, Fate::Lost), Some("response"));
    }

    #[test]
    fn a_connection_that_closes_loses_what_waits_and_takes_nothing_more() {
        let mut waits = Waits::default();
        assert_eq!(waits.ended(None, "one", false), None);
        assert_eq!(waits.close(), Some("one"));
        assert_eq!(waits.close(), None);
        assert_eq!(waits.guard(None), None);
        assert_eq!(waits.ended(None, "two", true), Some(("two", false)));
    }
}
