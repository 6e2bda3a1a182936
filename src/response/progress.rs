//! [`Progress`]: what an open response has shown so far.

use http::StatusCode;
use tokio::time::{Duration, Instant};

use super::{
    end::{EndDetails, EndKind, ResponseEnd},
    request_info::RequestInfo,
};
use crate::util::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What an open response has shown so far, for tasks that start before its end.
///
/// Only the owner of the response writes. A reader only needs recent numbers, so the order of the
/// writes does not matter.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The status of the head, and [`IS_GRPC`]. Zero before the head.
    head: AtomicU32,
    /// The time from the request to the head, in nanoseconds.
    time_to_head: AtomicU64,
    /// How many bytes of data the body has yielded.
    bytes: AtomicU64,
}

const IS_GRPC: u32 = 1 << 16;

impl Progress {
    pub(crate) fn note_head(&self, status: StatusCode, is_grpc: bool, time_to_head: Duration) {
        let nanos = u64::try_from(time_to_head.as_nanos()).unwrap_or(u64::MAX);
        self.time_to_head.store(nanos, Ordering::Relaxed);
        let is_grpc = if is_grpc { IS_GRPC } else { 0 };
        // Pairs with the loads of `head`: a thread that sees the status sees the time.
        self.head
            .store(u32::from(status.as_u16()) | is_grpc, Ordering::Release);
    }

    pub(crate) fn note_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns an end of the kind [`EndKind::Unfinished`], with what is known now.
    pub(crate) fn end_now(&self, request: RequestInfo) -> ResponseEnd {
        let mut details = EndDetails::new(EndKind::Unfinished, Instant::now());
        details.bytes = self.bytes.load(Ordering::Relaxed);
        let head = self.head.load(Ordering::Acquire);
        let status = u16::try_from(head & !IS_GRPC).ok();
        details.status = status.and_then(|status| StatusCode::from_u16(status).ok());
        details.is_grpc = head & IS_GRPC != 0;
        let time_to_head = self.time_to_head();
        details.head_at = time_to_head.and_then(|time| request.started().checked_add(time));
        ResponseEnd::new(request, details)
    }

    /// Returns the time from the request to the head, once there is a head.
    pub(crate) fn time_to_head(&self) -> Option<Duration> {
        let has_head = self.head.load(Ordering::Acquire) != 0;
        has_head.then(|| Duration::from_nanos(self.time_to_head.load(Ordering::Relaxed)))
    }
}
