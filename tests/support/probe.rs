//! An IO that counts what the system below it has taken.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

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
}

impl Taken {
    /// Notes that a task of a response has started, and says whether more have started than responses were taken whole.
    pub fn starts_early(&self) -> bool {
        self.started.fetch_add(1, SeqCst) + 1 > self.ended.load(SeqCst)
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
                let length = &self.header[..self.header.len().min(3)];
                self.payload = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            } else {
                self.payload -= 1;
            }
            if self.header.len() == 9 && self.payload == 0 {
                let (kind, flags) = (self.header[3], self.header[4]);
                ended += usize::from(kind <= 1 && flags & 1 == 1);
                self.header.clear();
            }
        }
        ended
    }
}

/// A stream whose writes are noted.
pub struct Probe {
    stream: TcpStream,
    pub taken: Arc<Taken>,
}

impl Probe {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, taken: Arc::default() }
    }
}

impl AsyncRead for Probe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Probe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.taken.note(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        let mut left = taken;
        for slice in slices {
            let part = left.min(slice.len());
            self.taken.note(&slice[..part]);
            left -= part;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
