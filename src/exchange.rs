//! What is known of one request and its response. It is written once, where the registry is, and read from there by all.

use std::sync::PoisonError;

use http::{HeaderMap, Method, Request, StatusCode, Version, uri::PathAndQuery};
use tokio::time::Instant;

use crate::{
    end::{BodyError, End},
    log::RequestId,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) version: Version,
    pub(crate) started: Instant,
    pub(crate) request_id: RequestId,
    /// What a release before the end needs; nothing where there can be none.
    early: OnceLock<Box<Early>>,
    /// A lock that is held to copy this alone: a cell that is written once would be dearer to write.
    end: Mutex<Option<Ended>>,
    /// What most want to know of that: `OPEN`, or whether there was a head.
    over: AtomicU8,
    rare: OnceLock<Box<Rare>>,
}

const OPEN: u8 = 0;
const OVER_WITHOUT_HEAD: u8 = 1;
const OVER_WITH_HEAD: u8 = 2;

/// What a release before the end tells of, and what it told.
#[derive(Debug, Default)]
struct Early {
    head: OnceLock<(Head, Option<i32>)>,
    bytes: AtomicU64,
    unfinished: OnceLock<(Ended, Rare)>,
}

/// What is known once the head of the response is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) at: Instant,
}

/// What is known when the tasks are released, but for what few responses show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) kind: End,
    pub(crate) head: Option<Head>,
    pub(crate) bytes: u64,
    /// Whether the socket is known to have taken all of these bytes.
    pub(crate) all_sent: bool,
    pub(crate) at: Instant,
}

/// What few responses show.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    pub(crate) error: Option<BodyError>,
    /// What the socket took at least, where it may not have all.
    pub(crate) bytes_sent: Option<u64>,
    /// A `content-length` that is sent beside a declared length that is not it.
    pub(crate) contradiction: Option<u64>,
    pub(crate) trailers: Option<HeaderMap>,
    /// What the head says of it, and what the trailers do, which counts more.
    pub(crate) grpc_status_in_head: Option<i32>,
    pub(crate) grpc_status: Option<i32>,
}

impl Exchange {
    /// That of no request.
    pub(crate) fn new(started: Instant) -> Self {
        let (method, path, version, request_id) = (Method::GET, None, Version::HTTP_11, RequestId::default());
        let (early, end, over, rare) = (OnceLock::new(), Mutex::default(), AtomicU8::new(OPEN), OnceLock::new());
        Self { method, path, version, started, request_id, early, end, over, rare }
    }

    /// Notes a request, of which `early` says whether its tasks may be released before the end.
    #[inline]
    pub(crate) fn open<B>(&mut self, request: &Request<B>, started: Instant, early: bool) {
        self.method = request.method().clone();
        self.path = request.uri().path_and_query().cloned();
        self.version = request.version();
        self.started = started;
        self.request_id = RequestId::of(request.headers());
        if early {
            self.early.get_or_init(Box::default);
        }
    }

    /// Lets go of the end.
    pub(crate) fn forget_end(&mut self) {
        (self.end, self.over) = (Mutex::default(), AtomicU8::new(OPEN));
        if self.rare.get().is_some() {
            self.rare = OnceLock::new();
        }
    }

    /// Lets go of a request without an end.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.path = None;
        self.request_id = RequestId::default();
        if self.is_early_release_expected() {
            self.early = OnceLock::new();
        }
    }

    /// The path without the query; empty for a target that has none.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// Notes the head, with the gRPC status that it may have, and says whether that is of use.
    #[inline]
    pub(crate) fn note_head(&self, head: Head, grpc_status: Option<i32>) -> bool {
        let Some(early) = self.early.get() else { return false };
        let first = early.head.set((head, grpc_status)).is_ok();
        debug_assert!(first, "a response has one head");
        first
    }

    /// The head, where it is noted.
    pub(crate) fn head(&self) -> Option<&Head> {
        self.early.get()?.head.get().map(|(head, _)| head)
    }

    /// Whether the tasks may be released before the end.
    #[inline]
    pub(crate) fn is_early_release_expected(&self) -> bool {
        self.early.get().is_some()
    }

    /// Notes what the body has yielded, where that is of use. Says whether the head was not yet noted, as nobody wanted it
    /// when it passed.
    #[inline]
    pub(crate) fn note_bytes(&self, bytes: u64, head: impl FnOnce() -> Option<Head>) -> bool {
        let Some(early) = self.early.get() else { return false };
        // Only the response's owner writes; a reader wants a figure, not an order of events.
        early.bytes.store(bytes, Ordering::Relaxed);
        early.head.get().is_none() && head().is_some_and(|head| early.head.set((head, None)).is_ok())
    }

    #[inline]
    pub(crate) fn note_end(&self, end: Ended, rare: Option<Box<Rare>>) {
        if let Some(rare) = rare {
            // Before the end, which is what others look for.
            let _ = self.rare.set(rare);
        }
        let over = if end.head.is_some() { OVER_WITH_HEAD } else { OVER_WITHOUT_HEAD };
        let before = self.end().replace(end);
        debug_assert!(before.is_none(), "a response has one end");
        self.over.store(over, Ordering::Release);
    }

    #[inline]
    fn end(&self) -> MutexGuard<'_, Option<Ended>> {
        // Nothing that can panic runs under this lock.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is known now, for a release before the end.
    pub(crate) fn note_unfinished(&self) {
        let Some(early) = self.early.get() else { return };
        early.unfinished.get_or_init(|| {
            let (head, grpc_status) = early.head.get().copied().unzip();
            let bytes = early.bytes.load(Ordering::Relaxed);
            let ended = Ended { kind: End::Unfinished, head, bytes, all_sent: false, at: Instant::now() };
            (ended, Rare { grpc_status_in_head: grpc_status.flatten(), ..Rare::default() })
        });
    }

    fn unfinished(&self) -> Option<&(Ended, Rare)> {
        self.early.get()?.unfinished.get()
    }

    /// Whether the response has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) != OPEN
    }

    /// Whether there was a head, by what `ended` tells.
    #[inline]
    pub(crate) fn has_head(&self, unfinished: bool) -> bool {
        if unfinished { self.ended(true).head.is_some() } else { self.over.load(Ordering::Acquire) == OVER_WITH_HEAD }
    }

    /// Whether there is what `ended` tells.
    pub(crate) fn is_known(&self, unfinished: bool) -> bool {
        if unfinished { self.unfinished().is_some() } else { self.is_over() }
    }

    /// The end, or what was known of it at an earlier release.
    #[inline]
    pub(crate) fn ended(&self, unfinished: bool) -> Ended {
        let ended = if unfinished { self.unfinished().map(|(ended, _)| *ended) } else { *self.end() };
        ended.expect("an end is known before tasks are released")
    }

    /// What few responses show, of what `ended` tells.
    pub(crate) fn rare(&self, unfinished: bool) -> Option<&Rare> {
        if unfinished { self.unfinished().map(|(_, rare)| rare) } else { self.rare.get().map(|rare| &**rare) }
    }

    pub(crate) fn grpc_status(&self, unfinished: bool) -> Option<i32> {
        let rare = self.rare(unfinished)?;
        rare.grpc_status.or(rare.grpc_status_in_head)
    }

    /// Whether the response is complete, its status below 400, and its gRPC status 0 or absent.
    pub(crate) fn is_success(&self, unfinished: bool) -> bool {
        let ended = self.ended(unfinished);
        let complete = ended.head.filter(|_| ended.kind == End::Complete);
        complete.is_some_and(|head| is_success(head.status, self.grpc_status(unfinished)))
    }

    /// When the tasks were released, or else when the request came.
    pub(crate) fn age_from(&self) -> Instant {
        let ended = self.unfinished().map(|(ended, _)| *ended).or_else(|| *self.end());
        ended.map_or(self.started, |ended| ended.at)
    }
}

/// Whether neither status tells of an error.
fn is_success(status: StatusCode, grpc_status: Option<i32>) -> bool {
    status.as_u16() < 400 && grpc_status.is_none_or(|status| status == 0)
}
