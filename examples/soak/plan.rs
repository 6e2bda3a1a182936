//! What the server and the client do for one request.

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

/// What the body does after its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    Ends,
    /// `is_end_stream` is true after the last frame.
    TellsEnd,
    /// States its exact size.
    Sized,
    /// The head has a `content-length`.
    Declared,
    Trailers,
    Fails,
    Panics,
    Hangs,
    /// The head declares more than the body has.
    Short,
    /// The head declares less than the body has.
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
    /// Closes its sending side. Servers treat that as leaving.
    HalfCloses,
}

/// The whole plan. It depends only on the seed of the request.
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
    pub body_end: BodyEnd,
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
            think: dice
                .percent(10)
                .then(|| Duration::from_millis(dice.below(4))),
            order: dice.among(&[
                (80, None),
                (10, Some(Order::Concurrent)),
                (5, Some(Order::Sequential)),
                (5, Some(Order::FailFast)),
            ]),
            bytes: usize::try_from(bytes).expect("it is small"),
            // Few frames, so that the load consists of many requests.
            chunk: usize::try_from(chunk.max(bytes / 8))
                .expect("it is small")
                .max(1),
            pauses: dice.among(&[(90, 0), (10, 40)]),
            body_end: dice.among(&[
                (20, BodyEnd::Ends),
                (20, BodyEnd::TellsEnd),
                (20, BodyEnd::Sized),
                (15, BodyEnd::Declared),
                (10, BodyEnd::Trailers),
                (3, BodyEnd::Fails),
                (2, BodyEnd::Panics),
                (2, BodyEnd::Hangs),
                (2, BodyEnd::Short),
                (3, BodyEnd::Long),
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
        matches!(self.head, Head::Hangs) || matches!(self.body_end, BodyEnd::Hangs)
    }

    /// Returns the length that the head declares.
    pub const fn declared(&self) -> Option<usize> {
        match self.body_end {
            BodyEnd::Declared | BodyEnd::Sized => Some(self.bytes),
            BodyEnd::Short => Some(self.bytes + 7),
            BodyEnd::Long => Some(self.bytes / 2),
            _ => None,
        }
    }

    /// Returns how many bytes a client gets that reads to the end. `None` if there is no regular
    /// end.
    pub fn whole(&self, multiplexed: bool) -> Option<usize> {
        let bodyless = self.head_only
            || self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED;
        match self.body_end {
            _ if self.head != Head::Answers => None,
            _ if bodyless && multiplexed => None,
            _ if bodyless => Some(0),
            BodyEnd::Fails | BodyEnd::Panics | BodyEnd::Hangs | BodyEnd::Short => None,
            BodyEnd::Long if multiplexed => None,
            BodyEnd::Long => self.declared(),
            _ => Some(self.bytes),
        }
    }

    /// Returns whether a complete HTTP/1.1 response has as many bytes as it should. A body that
    /// hangs ends after a while. A client can get it whole if it starts to read late, as the client
    /// of the second of two pipelined requests does.
    pub fn fits(&self, bytes: usize) -> bool {
        match self.whole(false) {
            Some(whole) => bytes == whole,
            None => {
                self.head == Head::Answers && self.body_end == BodyEnd::Hangs && bytes == self.bytes
            }
        }
    }
}

const PERIOD: usize = 251;
const LONGEST: usize = 1 << 17;

static PATTERN: LazyLock<Bytes> =
    LazyLock::new(|| (0..=250_u8).cycle().take(PERIOD + LONGEST).collect());

/// Returns the data of a body from this position on.
pub fn data(position: usize, length: usize) -> Bytes {
    let start = position % PERIOD;
    PATTERN.slice(start..start + length)
}

/// How much of a body a client has read.
#[derive(Debug, Default)]
pub struct Reading {
    pub position: usize,
    /// Whether there was a wrong byte.
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
