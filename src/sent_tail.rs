//! What becomes of a response behind the layer, on a tracked connection.
//!
//! Over HTTP/1 a server holds one response at a time, so the flush after its drop is of all of it. Over HTTP/2 it queues, and
//! writes when the client lets it; so a guard goes into each frame of data, and into a value of the head or the trailers where
//! these are the last frame. The last guard tells when the response was written, the others how far it was if it is lost. Where
//! the server's side sees to the last frame itself, as `SentBody` does, it has no guard here.

use bytes::Buf;
use http::{HeaderMap, Request, Version};
use http_body::Frame;

use crate::{
    end::End,
    progress::{Progress, Verdict},
    sent_connection::{Ended, SentConnectInfo, SentConnection},
    sent_frames::{Ending, guard_data, guard_headers},
    sent_gauge::Mark,
    sent_service::Tracked,
    sent_waits::Key,
    tasks::BackgroundTasks,
};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tail {
    connection: SentConnection,
    /// Where the response stands, over HTTP/1.
    mark: Option<Mark>,
    /// By what the server holds the response, until it is known that tasks wait for it.
    held: Option<Key>,
    is_held: bool,
    key: Option<Key>,
    ending: Ending,
}

impl Tail {
    pub(crate) fn open<B>(request: &mut Request<B>) -> Option<Self> {
        let extensions = request.extensions_mut();
        let tracked = extensions.get::<Tracked>();
        let held = tracked.and_then(|tracked| tracked.key);
        let connection = tracked.map(|tracked| tracked.connection.clone());
        let connection = connection.or_else(|| extensions.get::<SentConnection>().cloned());
        let connection = connection.or_else(|| SentConnectInfo::take(extensions))?;
        let mark = (request.version() < Version::HTTP_2).then(|| connection.gauge().begin());
        Some(Self { connection, mark, held, is_held: held.is_some(), key: None, ending: Ending::default() })
    }

    const fn is_multiplexed(&self) -> bool {
        self.mark.is_none()
    }

    /// Whether the server tells when it lets go of the response, whatever layers there are on the way.
    pub(crate) const fn is_held(&self) -> bool {
        self.is_held
    }

    /// Tasks wait for the response.
    fn claim(&mut self) {
        if let Some(key) = self.held.take() {
            self.key = self.connection.claim(key);
            self.is_held = self.key.is_some();
        }
    }

    /// The head, which may be the last frame.
    pub(crate) fn head(&mut self, headers: &mut HeaderMap, last: bool) {
        self.claim();
        self.ending.passed |= last;
        // Over HTTP/1 a flush tells all.
        if last && !self.is_held && self.is_multiplexed() {
            guard_headers(headers, || self.connection.guard(&mut self.key, 0, true));
        }
    }

    /// Puts a guard into a frame that comes after so much data.
    pub(crate) fn frame<D: Buf + 'static>(&mut self, frame: Frame<D>, last: bool, yielded: u64) -> Frame<D> {
        self.claim();
        self.ending.passed |= last;
        let (connection, key) = (&self.connection, &mut self.key);
        if let Some(mark) = &mut self.mark {
            connection.gauge().known(mark, yielded);
            return frame;
        }
        if last && self.is_held {
            return frame;
        }
        let mut frame = guard_data(frame, |length| if last || length > 0 { connection.guard(key, length, last) } else { None });
        if let Some(trailers) = frame.trailers_mut() {
            guard_headers(trailers, || connection.guard(key, 0, true));
        }
        frame
    }

    /// An empty frame with a guard, in place of the body's `None`.
    pub(crate) fn end_frame<D: 'static>(&mut self) -> Option<Frame<D>> {
        self.claim();
        if self.ending.passed || self.is_held || !self.is_multiplexed() {
            return None;
        }
        let (connection, key) = (&self.connection, &mut self.key);
        self.ending.tell(|| connection.guard(key, 0, true))
    }

    /// Somebody asks for what comes after the last frame, and so has that.
    pub(crate) fn asked(&self) {
        if let Some(key) = self.key {
            self.connection.asked(key);
        }
    }

    pub(crate) const fn owes_none(&mut self) -> bool {
        self.ending.owes_none()
    }

    pub(crate) const fn at_end(&self) -> bool {
        self.ending.is_told()
    }

    /// Ends the response as soon as it is known what became of it.
    pub(crate) fn wait(mut self, tasks: BackgroundTasks, verdict: Verdict, mut progress: Progress) {
        if verdict.0 == End::Complete {
            self.claim();
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
