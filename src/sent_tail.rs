//! What becomes of a response behind the server, on a tracked connection.
//!
//! Over HTTP/1 a server holds one response at a time, so the flush after its drop is of all of it. Over HTTP/2 it queues, and
//! writes when the client lets it; so a guard goes into the last frame: the owner of its bytes, or of a value of the head or
//! the trailers where these are the last frame.

use std::any::Any;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use http_body::Frame;

use crate::{
    end::End,
    progress::{Progress, Verdict},
    sent_connection::{Guard, SentConnectInfo, SentConnection},
    sent_waits::Key,
    tasks::BackgroundTasks,
};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tail {
    connection: SentConnection,
    multiplexed: bool,
    key: Option<Key>,
    /// An end was told by an empty frame.
    ended: bool,
    /// And the body's `None` is still to come.
    owes_none: bool,
}

impl Tail {
    pub(crate) fn open<B>(request: &mut Request<B>) -> Option<Self> {
        let connection = request.extensions().get::<SentConnection>().cloned();
        let connection = connection.or_else(|| SentConnectInfo::take(request.extensions_mut()))?;
        let multiplexed = request.version() >= Version::HTTP_2;
        Some(Self { connection, multiplexed, key: None, ended: false, owes_none: false })
    }

    /// The head is the last frame, or may be.
    pub(crate) fn head(&mut self, headers: &mut HeaderMap) {
        // Over HTTP/1 a flush tells all.
        if self.multiplexed {
            guard_headers(headers, &self.connection, &mut self.key);
        }
    }

    /// Puts a guard into the last frame.
    pub(crate) fn last_frame<D: 'static>(&mut self, frame: Frame<D>) -> Frame<D> {
        if !self.multiplexed {
            return frame;
        }
        let (connection, key) = (&self.connection, &mut self.key);
        let mut frame = frame.map_data(|mut data| {
            if let Some(bytes) = (&mut data as &mut dyn Any).downcast_mut::<Bytes>() {
                if let Some(guard) = connection.guard(key) {
                    *bytes = guarded(std::mem::take(bytes), guard);
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
        if self.key.is_some() || !self.multiplexed {
            return None;
        }
        let mut data = None::<D>;
        let empty = (&mut data as &mut dyn Any).downcast_mut::<Option<Bytes>>()?;
        let guard = self.connection.guard(&mut self.key)?;
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
        // A response that ended in any other way has nothing to wait for.
        if verdict.0 == End::Complete {
            self.connection.wait(self.key.take(), self.multiplexed, tasks, verdict, progress);
        } else {
            tasks.end(&mut progress, Some(verdict));
        }
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
    let Some(guard) = connection.guard(key) else { return };
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
