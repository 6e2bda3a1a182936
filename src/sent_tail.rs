//! What becomes of a response behind the server, on a tracked connection.
//!
//! Over HTTP/1 a server holds one response at a time, so the flush after its drop is of all of it. Over HTTP/2 it queues, and
//! writes when the client lets it; so a guard goes into each frame of data, as the owner of its bytes, and into a value of the
//! head or the trailers where these are the last frame. The last guard tells when the response was written, the others how far
//! it was if it is lost.

use std::any::Any;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use http_body::Frame;

use crate::{
    end::End,
    progress::{Progress, Verdict},
    sent_connection::{Ended, Guard, SentConnectInfo, SentConnection},
    sent_gauge::Mark,
    sent_waits::Key,
    tasks::BackgroundTasks,
};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tail {
    connection: SentConnection,
    /// Where the response stands, over HTTP/1.
    mark: Option<Mark>,
    key: Option<Key>,
    /// The last frame has passed, or is the head.
    passed: bool,
    /// An end was told by an empty frame.
    ended: bool,
    /// And the body's `None` is still to come.
    owes_none: bool,
}

impl Tail {
    pub(crate) fn open<B>(request: &mut Request<B>) -> Option<Self> {
        let connection = request.extensions().get::<SentConnection>().cloned();
        let connection = connection.or_else(|| SentConnectInfo::take(request.extensions_mut()))?;
        let mark = (request.version() < Version::HTTP_2).then(|| connection.gauge().begin());
        Some(Self { connection, mark, key: None, passed: false, ended: false, owes_none: false })
    }

    const fn is_multiplexed(&self) -> bool {
        self.mark.is_none()
    }

    /// The head is the last frame, or may be.
    pub(crate) fn head(&mut self, headers: &mut HeaderMap) {
        self.passed = true;
        // Over HTTP/1 a flush tells all.
        if self.is_multiplexed() {
            guard_headers(headers, &self.connection, &mut self.key);
        }
    }

    /// A frame comes after so much data.
    pub(crate) fn comes_after(&mut self, yielded: u64) {
        if let Some(mark) = &mut self.mark {
            self.connection.gauge().known(mark, yielded);
        }
    }

    /// Puts a guard into a frame.
    pub(crate) fn frame<D: Buf + 'static>(&mut self, frame: Frame<D>, last: bool) -> Frame<D> {
        self.passed |= last;
        if !self.is_multiplexed() {
            return frame;
        }
        let (connection, key) = (&self.connection, &mut self.key);
        let mut frame = frame.map_data(|mut data| {
            if let Some(bytes) = (&mut data as &mut dyn Any).downcast_mut::<Bytes>() {
                if last || !bytes.is_empty() {
                    if let Some(guard) = connection.guard(key, bytes.len(), last) {
                        *bytes = guarded(std::mem::take(bytes), guard);
                    }
                }
            }
            data
        });
        if let Some(trailers) = frame.trailers_mut() {
            guard_headers(trailers, &self.connection, &mut self.key);
        }
        frame
    }

    /// An empty frame with a guard, which is the last: for a body whose end is known only from its `None`, so that the server
    /// has nothing to put a guard into. On the wire it is the frame by which the server tells the end anyway.
    pub(crate) fn end_frame<D: 'static>(&mut self) -> Option<Frame<D>> {
        if self.passed || !self.is_multiplexed() {
            return None;
        }
        let mut data = None::<D>;
        let empty = (&mut data as &mut dyn Any).downcast_mut::<Option<Bytes>>()?;
        let guard = self.connection.guard(&mut self.key, 0, true)?;
        *empty = Some(guarded(Bytes::new(), guard));
        (self.ended, self.owes_none) = (true, true);
        data.map(Frame::data)
    }

    /// Somebody asks for what comes after the last frame, and so has that.
    pub(crate) fn asked(&self) {
        if let Some(key) = self.key {
            self.connection.asked(key);
        }
    }

    pub(crate) const fn owes_none(&mut self) -> bool {
        std::mem::replace(&mut self.owes_none, false)
    }

    pub(crate) const fn at_end(&self) -> bool {
        self.ended
    }

    /// Ends the response as soon as it is known what became of it.
    pub(crate) fn wait(mut self, tasks: BackgroundTasks, verdict: Verdict, mut progress: Progress) {
        if verdict.0 == End::Complete {
            return self.connection.wait(self.key.take(), Ended { tasks, verdict, progress, mark: self.mark });
        }
        // A response that ended in any other way has nothing to wait for.
        let sent = match (&mut self.mark, self.key) {
            (Some(mark), _) => Some(self.connection.gauge().known(mark, progress.sendable())),
            (None, Some(key)) => self.connection.flushed_data(key),
            (None, None) => (progress.bytes() == 0).then_some(0),
        };
        progress.sent(sent);
        tasks.end(&mut progress, Some(verdict));
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.forget(key);
        }
    }
}

/// Bytes that hold a guard.
struct Guarded {
    bytes: Bytes,
    _guard: Guard,
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn guarded(bytes: Bytes, guard: Guard) -> Bytes {
    Bytes::from_owner(Guarded { bytes, _guard: guard })
}

/// Puts a guard into one of the values. It is marked as sensitive, as HTTP/2 would keep any other in a table.
fn guard_headers(headers: &mut HeaderMap, connection: &SentConnection, key: &mut Option<Key>) {
    let Some((_, value)) = headers.iter_mut().find(|(name, _)| is_kept(name)) else { return };
    let Some(guard) = connection.guard(key, 0, true) else { return };
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    if let Ok(mut marked) = HeaderValue::from_maybe_shared(guarded(bytes, guard)) {
        marked.set_sensitive(true);
        *value = marked;
    }
}

/// Whether HTTP/2 has this header.
fn is_kept(name: &HeaderName) -> bool {
    ![header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE].contains(name)
        && !["keep-alive", "proxy-connection"].contains(&name.as_str())
}
