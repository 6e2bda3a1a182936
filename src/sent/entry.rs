//! [`Entry`]: what is known of one response on a tracked connection, and what it waits for.

use std::iter;

/// How a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The server copied it into its write buffer, or wrote it.
    Written,
    /// The server discarded it.
    Discarded,
    /// Another task than that of the connection dropped it: a layer that took it apart, or the task
    /// of its stream, which gave up the response.
    Unknown,
}

/// What is known of a response when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendResult {
    /// The socket took all of it.
    Sent,
    /// The server had all of it, and has flushed since then. No guard says how much of the response
    /// that flush wrote.
    Queued,
    /// It is lost. The socket took at least this many bytes of its data, if guards could tell.
    Lost(Option<u64>),
}

/// What a response waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The drop of its guards, or of the response itself.
    Drop,
    /// The next read cycle of the server.
    ReadCycle,
    /// The next flush.
    Flush,
    /// Nothing: it was flushed.
    Flushed,
}

/// What the layers leave of a response: each layer of this crate that follows it leaves a `T`. There
/// are several if the request passed layers of several supervisors.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended<T> {
    first: T,
    others: Vec<T>,
}

impl<T> Ended<T> {
    pub(super) const fn new(first: T) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }

    /// Returns what each layer has left.
    pub(super) fn each(self) -> impl Iterator<Item = T> {
        iter::once(self.first).chain(self.others)
    }
}

/// A response that is over, or `None`.
pub(super) type Over<T> = Option<(Ended<T>, SendResult)>;

/// One response. See [`Ended`] for `T`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent observations, judged together at the end"
)]
#[derive(Debug)]
pub(super) struct Entry<T> {
    /// Whether the connection sends several responses at once, from a queue.
    multiplexed: bool,
    /// Whether the server has the response, or will get it.
    in_flight: bool,
    guards: usize,
    /// How many of the guards are in a last frame.
    last_guards: usize,
    /// Whether a last frame had a guard.
    has_last: bool,
    /// Whether the connection is closed. Then no guard tells anything more.
    closed: bool,
    lost: bool,
    /// Whether a layer took the last frame apart.
    taken_apart: bool,
    /// Whether the body was polled after that.
    polled_again: bool,
    stage: Stage,
    /// How many layers follow the response, and have not dropped the body.
    layers: usize,
    ended: Option<Ended<T>>,
    data: Data,
}

impl<T> Entry<T> {
    /// Creates the entry of a response that is in flight, and that one layer follows.
    pub(super) fn new(multiplexed: bool) -> Self {
        Self {
            multiplexed,
            in_flight: true,
            guards: 0,
            last_guards: 0,
            has_last: false,
            closed: false,
            lost: false,
            taken_apart: false,
            polled_again: false,
            stage: Stage::Drop,
            layers: 1,
            ended: None,
            data: Data::default(),
        }
    }

    /// Notes that another layer follows the response. Returns whether it is the only one.
    pub(super) const fn add_layer(&mut self) -> bool {
        let is_only = !self.is_followed();
        self.layers += 1;
        is_only
    }

    /// Notes that a layer no longer follows the response.
    pub(super) const fn remove_layer(&mut self) {
        self.layers -= 1;
    }

    /// Returns whether a layer follows the response, or waits for it.
    pub(super) const fn is_followed(&self) -> bool {
        self.layers > 0 || self.ended.is_some()
    }

    /// Returns whether nobody follows the response, and nobody will. A layer between can try again,
    /// and send another response in place of one that it drops.
    pub(super) const fn is_done(&self) -> bool {
        !self.is_followed() && !self.in_flight
    }

    /// Adds a guard for a frame, so the response waits for its drop.
    pub(super) fn add_guard(&mut self, is_last: bool) {
        self.guards += 1;
        self.last_guards += usize::from(is_last);
        self.has_last |= is_last;
        self.stage = Stage::Drop;
    }

    /// Notes that a frame with a guard and with so many bytes of the body's data was dropped.
    pub(super) fn guard_dropped(
        &mut self,
        is_last: bool,
        bytes: u64,
        dropped: Dropped,
        flushes: u64,
    ) {
        self.guards -= 1;
        self.last_guards -= usize::from(is_last);
        self.data.update(flushes);
        match dropped {
            Dropped::Written => self.data.written += bytes,
            Dropped::Discarded => self.lost = true,
            // The layer must poll once more for this frame.
            Dropped::Unknown if is_last => (self.taken_apart, self.polled_again) = (true, false),
            Dropped::Unknown => {}
        }
    }

    /// Notes that the body was polled.
    pub(super) const fn note_poll(&mut self) {
        self.polled_again |= self.taken_apart;
    }

    /// Notes that a layer dropped the body.
    pub(super) fn layer_dropped(&mut self, ended: T) {
        // If the response is in flight, the server decides whether it is given up.
        self.lost |= self.is_given_up() && !self.in_flight;
        self.remove_layer();
        match &mut self.ended {
            Some(before) => before.others.push(ended),
            None => self.ended = Some(Ended::new(ended)),
        }
    }

    /// Notes that the server dropped the response, and whether it had all of it.
    pub(super) fn server_dropped(&mut self, is_whole: bool) {
        self.in_flight = false;
        self.lost |= !is_whole || self.is_given_up();
    }

    /// Notes that the connection is closed.
    pub(super) const fn lose(&mut self) {
        self.closed = true;
        self.lost = true;
    }

    /// Notes that the connection is closed. Returns the response if a layer has dropped the body.
    pub(super) fn close(&mut self, flushes: u64) -> Over<T> {
        self.lose();
        self.take_ended(flushes)
    }

    /// Returns how many bytes of the data the socket took at least.
    pub(super) fn flushed_data(&mut self, flushes: u64) -> u64 {
        self.data.update(flushes);
        self.data.flushed
    }

    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) const fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// Returns the stage that the response reaches now, if it is a new one. Then the response waits
    /// for a read cycle or a flush.
    pub(super) const fn next_stage(&self) -> Option<Stage> {
        // A last frame can be written and flushed before the layer or the server drops the
        // response.
        let may_be_written = self.is_unguarded() && (self.has_last || !self.in_flight);
        if self.lost || !may_be_written {
            return None;
        }
        // Without a guard in its last frame, the response may have just entered the server's queue.
        match (self.stage, self.is_tracked()) {
            (Stage::Drop | Stage::ReadCycle, true) => Some(Stage::Flush),
            (Stage::Drop, false) if self.ended.is_some() && !self.in_flight => {
                Some(Stage::ReadCycle)
            }
            _ => None,
        }
    }

    /// Returns the response if it is over: it is lost, or it was flushed.
    pub(super) fn take_over(&mut self, flushes: u64) -> Over<T> {
        let is_settled = self.lost || matches!(self.stage, Stage::Flushed);
        let waits_for_guards = !self.closed && !self.is_unguarded();
        if self.in_flight || waits_for_guards || !is_settled {
            return None;
        }
        self.take_ended(flushes)
    }

    fn take_ended(&mut self, flushes: u64) -> Over<T> {
        let ended = self.ended.take()?;
        let result = if self.lost {
            SendResult::Lost(Some(self.flushed_data(flushes)))
        } else if self.is_tracked() {
            SendResult::Sent
        } else {
            SendResult::Queued
        };
        Some((ended, result))
    }

    /// Returns whether a flush says that the socket took all of the response, and not only that the
    /// server had it in its queue.
    const fn is_tracked(&self) -> bool {
        !self.multiplexed || (self.has_last && !self.taken_apart)
    }

    /// Returns whether the guards that count were dropped: those of last frames, or all guards if
    /// no last frame has one.
    const fn is_unguarded(&self) -> bool {
        if self.has_last {
            self.last_guards == 0
        } else {
            self.guards == 0
        }
    }

    /// Returns whether the last frame was discarded. A layer that took it apart polls the body
    /// again, and a server that gives up does not.
    const fn is_given_up(&self) -> bool {
        self.taken_apart && !self.polled_again
    }
}

/// How much of the data of a response was written. The guards of its frames tell.
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
