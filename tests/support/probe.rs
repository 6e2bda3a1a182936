//! Counts, below a server, the responses that the system has taken whole.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::io::InspectWriter;

/// The last byte of a body that is counted over HTTP/1. No head has it.
pub const MARK: u8 = 0x7f;

/// What became of the responses of one connection.
#[derive(Debug, Default)]
pub struct Taken {
    started: AtomicUsize,
    ended: AtomicUsize,
    frames: Mutex<Frames>,
}

/// How far the frames of HTTP/2 were taken.
#[derive(Debug, Default)]
struct Frames {
    multiplexed: Option<bool>,
    header: Vec<u8>,
    payload: usize,
    data: Vec<(bool, usize)>,
}

impl Taken {
    /// Notes that a task of a response has started, and says whether more have started than responses were taken whole.
    pub fn starts_early(&self) -> bool {
        self.started.fetch_add(1, SeqCst) + 1 > self.ended.load(SeqCst)
    }

    /// The frames of data that were taken: whether each ends its stream, and how many bytes it has.
    pub fn data(&self) -> Vec<(bool, usize)> {
        self.frames.lock().unwrap().data.clone()
    }

    fn note(&self, bytes: &[u8]) {
        let mut frames = self.frames.lock().unwrap();
        let Some(first) = bytes.first() else { return };
        // A response of HTTP/1 begins with its version; so long a frame there is not.
        let ended = if *frames.multiplexed.get_or_insert(*first != b'H') {
            frames.ended(bytes)
        } else {
            bytes.iter().map(|byte| usize::from(*byte == MARK)).sum()
        };
        self.ended.fetch_add(ended, SeqCst);
    }
}

impl Frames {
    /// How many frames that end a stream end within these bytes. The tests send no head that needs a second frame.
    fn ended(&mut self, bytes: &[u8]) -> usize {
        let mut ended = 0;
        for byte in bytes {
            if self.header.len() < 9 {
                self.header.push(*byte);
                if self.header.len() < 9 {
                    continue;
                }
                self.payload = self.length();
            } else {
                self.payload -= 1;
            }
            if self.payload == 0 {
                let (kind, ends) = (self.header[3], self.header[4] & 1 == 1);
                ended += usize::from(kind <= 1 && ends);
                if kind == 0 {
                    self.data.push((ends, self.length()));
                }
                self.header.clear();
            }
        }
        ended
    }

    fn length(&self) -> usize {
        self.header[..3].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }
}

/// A stream whose writes are noted.
pub fn probed(stream: TcpStream, taken: Arc<Taken>) -> impl AsyncRead + AsyncWrite + Unpin + Send {
    InspectWriter::new(stream, move |bytes: &[u8]| taken.note(bytes))
}
