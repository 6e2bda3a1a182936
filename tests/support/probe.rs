//! Sees, below a server, which responses the system has taken whole.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::io::InspectWriter;

/// How long the body of a response is that is looked for, in bytes.
pub const NUMBERED: usize = 13;

/// The body of a response, by which it is known.
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
        while let Some(length) = if multiplexed { state.frame() } else { state.response() } {
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
        let (number, length) = (number(&body[body.find("hello")?..]), head.len() + 4 + end);
        self.whole.insert(number);
        Some(length)
    }

    /// The length of the first frame, which is noted, if it is whole. The tests send no head that needs a second frame.
    fn frame(&mut self) -> Option<usize> {
        let (header, rest) = self.open.split_first_chunk::<9>()?;
        let [_, _, _, kind, flags, id @ ..] = header;
        let payload = rest.get(..header[..3].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))?;
        let (stream, ends) = (u32::from_be_bytes(*id), *kind <= 1 && flags & 1 == 1);
        let length = 9 + payload.len();
        if *kind == 0 {
            self.data.push((ends, payload.len()));
            self.bodies.entry(stream).or_default().extend_from_slice(payload);
        }
        if ends {
            let body = self.bodies.remove(&stream).unwrap_or_default();
            self.whole.insert(number(&String::from_utf8(body).expect("the tests send text")));
        }
        Some(length)
    }
}

fn number(body: &str) -> usize {
    body["hello".len()..].parse().expect("the body is one that is numbered")
}

/// A stream whose writes are noted.
pub fn probed(stream: TcpStream, taken: Arc<Taken>) -> impl AsyncRead + AsyncWrite + Unpin + Send {
    InspectWriter::new(stream, move |bytes: &[u8]| taken.note(bytes))
}
