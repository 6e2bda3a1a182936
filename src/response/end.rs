//! [`ResponseEnd`]: how a response ended.

use std::{fmt, time::Duration};

use http::{HeaderMap, Method, StatusCode, Version};
use tokio::time::Instant;

use super::{headers::GRPC_OK, request_info::RequestInfo, response_error::ResponseError};

/// How a response ended, and what is known of the request and the response then.
///
/// A task gets it from [`TaskContext::end`](crate::TaskContext::end), a condition from
/// [`When::matches`](crate::When::matches), and an observer from
/// [`Observer::on_response_end`](crate::Observer::on_response_end).
///
/// # Examples
///
/// ```
/// use tower_background::{BackgroundTasks, Task};
///
/// fn audit(tasks: &BackgroundTasks) {
///     tasks.add(Task::with_context(|cx| async move {
///         if let Some(end) = cx.end() {
///             println!("{} {}: {:?} {:?}", end.method(), end.path(), end.kind(), end.status());
///         }
///     }));
/// }
/// # let _ = audit;
/// ```
#[derive(Clone)]
pub struct ResponseEnd {
    request: RequestInfo,
    details: EndDetails,
}

impl ResponseEnd {
    pub(crate) const fn new(request: RequestInfo, details: EndDetails) -> Self {
        Self { request, details }
    }

    /// Returns how the response ended.
    #[must_use]
    pub const fn kind(&self) -> EndKind {
        self.details.kind
    }

    /// Returns what was wrong with the response, if the kind is [`EndKind::Failed`].
    #[must_use]
    pub const fn error(&self) -> Option<ResponseError> {
        self.details.error
    }

    /// Returns the method of the request.
    #[must_use]
    pub const fn method(&self) -> &Method {
        self.request.method()
    }

    /// Returns the path of the request without the query, cut at 1 KiB. It is empty if the target
    /// has no path, as in a `CONNECT` request.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path()
    }

    /// Returns the status of the response, if there was a head.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        self.details.status
    }

    /// Returns the HTTP version of the request, by which the response is judged.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.request.version()
    }

    /// Returns how many bytes of data the body yielded. [`bytes_sent`](Self::bytes_sent) says how
    /// many of them the socket took.
    ///
    /// A layer outside of [`BackgroundLayer`](crate::BackgroundLayer), such as compression, can
    /// change the number of bytes on the wire.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.details.bytes
    }

    /// Returns how many bytes of the body's data the socket took at least, if that is known.
    ///
    /// It is only known with [`StartOn::LastByteSent`](crate::StartOn) on a connection that this
    /// crate tracks (feature `sent`), and over HTTP/2 only if the last frame could be tracked. If
    /// the end is [`EndKind::Complete`], the number has all data that the server sends.
    #[must_use]
    pub const fn bytes_sent(&self) -> Option<u64> {
        self.details.bytes_sent
    }

    /// Returns the trailers of the body, if it yielded any.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        if self.details.has_grpc_ok {
            return Some(&GRPC_OK);
        }
        self.details.trailers.as_deref()
    }

    /// Returns the value of `grpc-status` from the trailers. A
    /// [gRPC](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses) response
    /// without a message has it in the head.
    #[must_use]
    pub const fn grpc_status(&self) -> Option<i32> {
        self.details.grpc_status
    }

    /// Returns the time from the call of the service to the head of the response, if there was a
    /// head.
    #[must_use]
    pub fn time_to_head(&self) -> Option<Duration> {
        let head_at = self.details.head_at?;
        Some(head_at.saturating_duration_since(self.request.started()))
    }

    /// Returns the time from the call of the service to this end. Tasks start after it, so it never
    /// includes them.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let started = self.request.started();
        self.details.ended_at.saturating_duration_since(started)
    }

    /// Returns whether the kind is [`EndKind::Complete`].
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self.details.kind, EndKind::Complete)
    }

    /// Returns whether the response is a success: its status is below 400, and its gRPC status is
    /// absent or 0.
    ///
    /// It can be a success although the client left before the end. A gRPC response without its
    /// trailers is no success, and neither is a response that ended as [`EndKind::Failed`] or
    /// [`EndKind::Panicked`].
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.details.is_success()
    }
}

/// Prints what most people look for, in a few words. The other values have methods.
impl fmt::Debug for ResponseEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut end = f.debug_struct("ResponseEnd");
        end.field("kind", &self.kind())
            .field("method", self.method())
            .field("path", &self.path())
            .field("status", &self.status())
            .field("bytes", &self.bytes())
            .field("elapsed", &self.elapsed());
        if let Some(status) = self.grpc_status() {
            end.field("grpc_status", &status);
        }
        if let Some(error) = self.error() {
            end.field("error", &error);
        }
        end.finish_non_exhaustive()
    }
}

/// The kind of a [`ResponseEnd`].
///
/// # Examples
///
/// ```
/// use tower_background::{EndKind, When};
///
/// let client_left = When::matches(|end| end.kind() == EndKind::Interrupted);
/// # drop(client_left);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum EndKind {
    /// The server has all of the response: the end of the body was seen, or the response can have
    /// no body, or (over HTTP/1) the body yielded its declared length.
    ///
    /// With [`StartOn::LastByteSent`](crate::StartOn), the socket has all of the response.
    Complete,
    /// The body was dropped before its end: the client left, the stream was reset, or the server
    /// stopped.
    ///
    /// With [`StartOn::LastByteSent`](crate::StartOn) also: the connection died before the socket
    /// took the last byte.
    Interrupted,
    /// The body returned an error or contradicted its head, or the status is not a final one.
    /// [`ResponseEnd::error`] says which.
    Failed,
    /// The inner service returned `Err`.
    ServiceError,
    /// The response future was dropped before it had a head: the client left, or an outer timeout
    /// fired.
    NoResponse,
    /// The service or the body panicked, even if an outer layer caught the panic.
    Panicked,
    /// The response is still open, and its tasks could not wait:
    /// [`start_within`](crate::SupervisorBuilder::start_within) ran out, or the grace of a shutdown
    /// is over and a [shutdown fallback](crate::Task::shutdown_fallback) runs.
    Unfinished,
}

/// The head of a response that is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) is_grpc: bool,
    /// When there was a head.
    pub(crate) at: Instant,
}

/// What a [`ResponseEnd`] says of the response.
#[derive(Debug, Clone)]
pub(crate) struct EndDetails {
    pub(super) kind: EndKind,
    pub(super) error: Option<ResponseError>,
    pub(super) status: Option<StatusCode>,
    pub(super) bytes: u64,
    pub(super) bytes_sent: Option<u64>,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) is_grpc: bool,
    /// Whether the trailers are those of [`GRPC_OK`]. They are not copied then.
    pub(super) has_grpc_ok: bool,
    pub(super) grpc_status: Option<i32>,
    /// When the response had its head.
    pub(super) head_at: Option<Instant>,
    pub(super) ended_at: Instant,
}

impl EndDetails {
    fn is_success(&self) -> bool {
        let is_intact = matches!(
            self.kind,
            EndKind::Complete | EndKind::Interrupted | EndKind::Unfinished
        );
        let grpc_is_ok = match self.grpc_status {
            Some(status) => status == 0,
            None => !self.is_grpc,
        };
        is_intact && grpc_is_ok && self.status.is_some_and(|status| status.as_u16() < 400)
    }

    /// Returns what is known now of a response that is open.
    pub(crate) fn unfinished(head: Option<ResponseHead>, bytes: u64, now: Instant) -> Self {
        Self {
            kind: EndKind::Unfinished,
            error: None,
            status: head.map(|head| head.status),
            bytes,
            bytes_sent: None,
            trailers: None,
            is_grpc: head.is_some_and(|head| head.is_grpc),
            has_grpc_ok: false,
            grpc_status: None,
            head_at: head.map(|head| head.at),
            ended_at: now,
        }
    }
}
