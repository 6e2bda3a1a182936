//! A stream for a server, which notes the responses that the system has taken completely.

use std::{
    collections::{HashMap, HashSet},
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How long the body of a response is that is looked for, in bytes.
pub const NUMBERED: usize = 13;

/// Returns the body that identifies a response. A response over gRPC is identified by the health
/// status in its first message.
pub fn numbered(number: usize) -> Vec<u8> {
    format!("hello{number:08}").into_bytes()
}

/// What became of the responses of one connection.
#[derive(Debug, Default)]
pub struct Taken(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    multiplexed: Option<bool>,
    /// What is not whole yet: of HTTP/1 responses, of HTTP/2 a frame.
    open: Vec<u8>,
    bodies: HashMap<u32, Vec<u8>>,
    data: Vec<(bool, usize)>,
    whole: HashSet<usize>,
}

impl Taken {
    /// Whether all of the response with this number was taken.
    pub fn has(&self, number: usize) -> bool {
        self.0.lock().unwrap().whole.contains(&number)
    }

    /// The frames of data that were taken: whether each ends its stream, and how many bytes it has.
    pub fn data(&self) -> Vec<(bool, usize)> {
        self.0.lock().unwrap().data.clone()
    }

    fn note(&self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        let Some(first) = bytes.first() else { return };
        // A response of HTTP/1 begins with its version; so long a frame there is not.
        let multiplexed = *state.multiplexed.get_or_insert(*first != b'H');
        state.open.extend_from_slice(bytes);
        while let Some(length) = if multiplexed {
            state.frame()
        } else {
            state.response()
        } {
            state.open.drain(..length);
        }
    }
}

impl State {
    /// The length of the first response over HTTP/1, which is noted, if it is whole.
    fn response(&mut self) -> Option<usize> {
        let text = String::from_utf8_lossy(&self.open);
        let (head, rest) = text.split_once("\r\n\r\n")?;
        let (body, end) = if head.contains("chunked") {
            let (body, _) = rest.split_once("\r\n0\r\n\r\n")?;
            (body, body.len() + 7)
        } else {
            (rest.get(..NUMBERED)?, NUMBERED)
        };
        let (number, length) = (
            number(&body.as_bytes()[body.find("hello")?..]),
            head.len() + 4 + end,
        );
        self.whole.insert(number);
        Some(length)
    }

    /// Notes the first frame if it is whole, and returns its length. No head in these tests needs a
    /// second frame.
    fn frame(&mut self) -> Option<usize> {
        let (header, rest) = self.open.split_first_chunk::<9>()?;
        let [_, _, _, kind, flags, id @ ..] = header;
        let payload = rest.get(
            ..header[..3]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )?;
        let (stream, ends) = (u32::from_be_bytes(*id), *kind <= 1 && flags & 1 == 1);
        let length = 9 + payload.len();
        if *kind == 0 {
            self.data.push((ends, payload.len()));
            self.bodies
                .entry(stream)
                .or_default()
                .extend_from_slice(payload);
        }
        if ends {
            let body = self.bodies.remove(&stream).unwrap_or_default();
            self.whole.insert(number(&body));
        }
        Some(length)
    }
}

fn number(body: &[u8]) -> usize {
    match body.strip_prefix(b"hello") {
        Some(digits) => std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .expect("the body is one that is numbered"),
        None => in_a_message(body),
    }
}

/// Reads the first gRPC message. After 5 bytes of framing it has one field. The key of the field is
/// one byte, and its value is a number with 7 bits in each byte.
fn in_a_message(body: &[u8]) -> usize {
    let digits = body[6..].iter().scan(true, |more, byte| {
        std::mem::replace(more, byte & 0x80 != 0).then_some(byte & 0x7f)
    });
    digits
        .enumerate()
        .map(|(place, digit)| usize::from(digit) << (7 * place))
        .sum()
}

/// A stream whose writes are noted.
pub struct Probed {
    inner: TcpStream,
    pub taken: Arc<Taken>,
}

pub const fn probed(inner: TcpStream, taken: Arc<Taken>) -> Probed {
    Probed { inner, taken }
}

impl AsyncRead for Probed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Probed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = written {
            self.taken.note(&bytes[..length]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut length)) = written {
            for slice in slices {
                let part = length.min(slice.len());
                self.taken.note(&slice[..part]);
                length -= part;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
