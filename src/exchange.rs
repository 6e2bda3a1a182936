//! What is known of one request and its response. It is written once, where the registry is, and read from there by all.

use http::{HeaderMap, Method, Request, StatusCode, Version, uri::PathAndQuery};
use tokio::time::Instant;

use crate::{
    end::{BodyError, End},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) version: Version,
    pub(crate) started: Instant,
    /// What a release before the end needs; nothing where there can be none.
    early: Option<Box<Early>>,
    end: OnceLock<Ended>,
}

/// What a release before the end tells of, and what it told.
#[derive(Debug, Default)]
struct Early {
    head: OnceLock<Head>,
    bytes: AtomicU64,
    unfinished: OnceLock<Ended>,
}

/// What is known once the head of the response is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) grpc_status: Option<i32>,
    pub(crate) at: Instant,
}

/// What is known when the tasks are released.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) kind: End,
    pub(crate) error: Option<BodyError>,
    pub(crate) head: Option<Head>,
    pub(crate) bytes: u64,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    pub(crate) grpc_status: Option<i32>,
    pub(crate) at: Instant,
}

impl Exchange {
    /// What is known of a request, of which `early` says whether its tasks may be released before the end.
    #[inline]
    pub(crate) fn new<B>(request: &Request<B>, early: bool) -> Self {
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            started: Instant::now(),
            early: early.then(Box::default),
            end: OnceLock::new(),
        }
    }

    /// The path without the query; empty for a target that has none.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// Notes the head and says whether that is of use.
    pub(crate) fn note_head(&self, head: Head) -> bool {
        let Some(early) = &self.early else { return false };
        let first = early.head.set(head).is_ok();
        debug_assert!(first, "a response has one head");
        first
    }

    /// The head, where it is noted.
    pub(crate) fn head(&self) -> Option<&Head> {
        self.early.as_ref()?.head.get()
    }

    /// Notes what the body has yielded.
    pub(crate) fn note_bytes(&self, bytes: u64) {
        if let Some(early) = &self.early {
            // Only the response's owner writes; a reader wants a figure, not an order of events.
            early.bytes.store(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_end(&self, end: Ended) {
        let first = self.end.set(end).is_ok();
        debug_assert!(first, "a response has one end");
    }

    /// Notes what is known now, for a release before the end.
    pub(crate) fn note_unfinished(&self) {
        let Some(early) = &self.early else { return };
        let head = early.head.get().copied();
        early.unfinished.get_or_init(|| Ended {
            kind: End::Unfinished,
            error: None,
            head,
            bytes: early.bytes.load(Ordering::Relaxed),
            trailers: None,
            grpc_status: head.and_then(|head| head.grpc_status),
            at: Instant::now(),
        });
    }

    fn unfinished(&self) -> Option<&Ended> {
        self.early.as_ref()?.unfinished.get()
    }

    /// Whether the response has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.end.get().is_some()
    }

    /// The end, or what was known of it at an earlier release.
    pub(crate) fn ended(&self, unfinished: bool) -> &Ended {
        let ended = if unfinished { self.unfinished() } else { self.end.get() };
        ended.expect("an end is known before tasks are released")
    }

    /// When the tasks were released, or else when the request came.
    pub(crate) fn age_from(&self) -> Instant {
        self.unfinished().or_else(|| self.end.get()).map_or(self.started, |ended| ended.at)
    }
}

impl Ended {
    /// Whether the response is complete, its status below 400, and its gRPC status 0 or absent.
    pub(crate) fn is_success(&self) -> bool {
        self.kind == End::Complete
            && self.head.is_some_and(|head| head.status.as_u16() < 400)
            && self.grpc_status.is_none_or(|status| status == 0)
    }
}
