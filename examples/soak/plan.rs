//! What one request does, on the side of the server and on that of its client.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tower_background::Order;

use crate::dice::Dice;

/// What the handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    Answers,
    Fails,
    Panics,
    PanicsInCall,
    Hangs,
}

/// What the body does when its data is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    Ends,
    /// Says so with its last frame.
    TellsEnd,
    /// Had stated its size.
    Sized,
    /// Had a `content-length`.
    Declared,
    Trailers,
    Fails,
    Panics,
    Hangs,
    /// Had declared more.
    Short,
    /// Had declared less.
    Long,
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Reads,
    ReadsSlowly,
    /// Reads nothing for a while, then goes on.
    Stalls,
    /// Reads nothing for a while, then leaves.
    StallsAndLeaves,
    LeavesBeforeHead,
    LeavesMidBody,
    LeavesAfter,
    /// Says that it sends no more, which servers take for leaving.
    HalfCloses,
}

/// All of it, made of the request's seed alone.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub head: Head,
    pub head_only: bool,
    pub status: StatusCode,
    pub think: Option<Duration>,
    pub order: Option<Order>,
    pub bytes: usize,
    pub chunk: usize,
    /// How many of a hundred frames are followed by a pause.
    pub pauses: u64,
    pub tail: Tail,
    pub client: Client,
    /// Whether the client leaves by a reset.
    pub resets: bool,
    pub wait: Duration,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let head = dice.among(&[
            (940, Head::Answers),
            (20, Head::Fails),
            (15, Head::Panics),
            (5, Head::PanicsInCall),
            (20, Head::Hangs),
        ]);
        let (bytes, chunk) = match dice.below(100) {
            0..5 => (0, 1),
            5..90 => (1 + dice.below(2_000), 1 + dice.below(2_000)),
            90..98 => (16_000 + dice.below(48_000), 1_000 + dice.below(16_000)),
            _ => (128_000 + dice.below(400_000), 4_000 + dice.below(60_000)),
        };
        let small = bytes < 10_000;
        Self {
            seed,
            head,
            head_only: dice.percent(3),
            status: dice.among(&[
                (85, StatusCode::OK),
                (4, StatusCode::NO_CONTENT),
                (2, StatusCode::NOT_MODIFIED),
                (5, StatusCode::NOT_FOUND),
                (4, StatusCode::INTERNAL_SERVER_ERROR),
            ]),
            think: dice.percent(10).then(|| Duration::from_millis(dice.below(4))),
            order: dice.among(&[
                (80, None),
                (10, Some(Order::Concurrent)),
                (5, Some(Order::Sequential)),
                (5, Some(Order::FailFast)),
            ]),
            bytes: usize::try_from(bytes).expect("it is small"),
            // Few frames, so that the load is one of requests.
            chunk: usize::try_from(chunk.max(bytes / 8)).expect("it is small").max(1),
            pauses: dice.among(&[(90, 0), (10, 40)]),
            tail: dice.among(&[
                (20, Tail::Ends),
                (20, Tail::TellsEnd),
                (20, Tail::Sized),
                (15, Tail::Declared),
                (10, Tail::Trailers),
                (3, Tail::Fails),
                (2, Tail::Panics),
                (2, Tail::Hangs),
                (2, Tail::Short),
                (3, Tail::Long),
            ]),
            client: dice.among(&[
                (if small { 780 } else { 500 }, Client::Reads),
                (20, Client::ReadsSlowly),
                (if small { 2 } else { 60 }, Client::Stalls),
                (if small { 2 } else { 80 }, Client::StallsAndLeaves),
                (50, Client::LeavesBeforeHead),
                (80, Client::LeavesMidBody),
                (40, Client::LeavesAfter),
                (10, Client::HalfCloses),
            ]),
            resets: dice.percent(50),
            wait: Duration::from_millis(dice.among(&[(60, 2), (30, 15), (10, 90)])),
        }
    }

    pub const fn hangs(&self) -> bool {
        matches!(self.head, Head::Hangs) || matches!(self.tail, Tail::Hangs)
    }

    /// The length that the head declares.
    pub const fn declared(&self) -> Option<usize> {
        match self.tail {
            Tail::Declared | Tail::Sized => Some(self.bytes),
            Tail::Short => Some(self.bytes + 7),
            Tail::Long => Some(self.bytes / 2),
            _ => None,
        }
    }

    /// The bytes that a client gets which reads to the end, if it comes to one.
    pub fn whole(&self, multiplexed: bool) -> Option<usize> {
        let bodyless = self.head_only || self.status == StatusCode::NO_CONTENT || self.status == StatusCode::NOT_MODIFIED;
        match self.tail {
            _ if self.head != Head::Answers => None,
            _ if bodyless && multiplexed => None,
            _ if bodyless => Some(0),
            Tail::Fails | Tail::Panics | Tail::Hangs | Tail::Short => None,
            Tail::Long if multiplexed => None,
            Tail::Long => self.declared(),
            _ => Some(self.bytes),
        }
    }

    /// Whether an HTTP/1.1 response that has come to its end has as many bytes as it should. One that hangs ends at last, and its
    /// client has it whole if that has begun to wait late: the second of two requests that were sent at once hangs while the first
    /// is still being read.
    pub fn fits(&self, bytes: usize) -> bool {
        match self.whole(false) {
            Some(whole) => bytes == whole,
            None => self.head == Head::Answers && self.tail == Tail::Hangs && bytes == self.bytes,
        }
    }
}

const PERIOD: usize = 251;
const LONGEST: usize = 1 << 17;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| (0..=250_u8).cycle().take(PERIOD + LONGEST).collect());

/// What a body has at this place.
pub fn data(position: usize, length: usize) -> Bytes {
    let start = position % PERIOD;
    PATTERN.slice(start..start + length)
}

/// What a client has read of a body.
#[derive(Debug, Default)]
pub struct Reading {
    pub position: usize,
    /// Whether there was a byte that did not belong there.
    pub wrong: bool,
}

impl Reading {
    pub fn take(&mut self, read: &[u8]) {
        for part in read.chunks(LONGEST) {
            self.wrong |= data(self.position, part.len()) != part;
            self.position += part.len();
        }
    }
}
