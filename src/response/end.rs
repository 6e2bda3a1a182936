//! [`ResponseEnd`]: how a response ended.

use std::{error::Error, fmt, time::Duration};

use http::{HeaderMap, Method, StatusCode, Version};
use tokio::time::Instant;

use super::request_info::RequestInfo;

/// How a response ended.
///
/// | kind | when |
/// |---|---|
/// | [`Complete`](Self::Complete) | The end of the body was seen, or the response can have no body, or (over HTTP/1) the body yielded its declared length. |
/// | [`Interrupted`](Self::Interrupted) | The body was dropped before that: the client left, the stream was reset, or the server stopped. With [`StartOn::LastByteSent`](crate::StartOn) also when the connection died before the socket took the last byte. |
/// | [`Failed`](Self::Failed) | The body returned an error, or contradicted its head, or the status is no final one. [`ResponseEnd::error`] says which. |
/// | [`ServiceError`](Self::ServiceError) | The inner service returned `Err`. |
/// | [`NoResponse`](Self::NoResponse) | The response future was dropped before it had a head: the client left, or an outer timeout fired. |
/// | [`Panicked`](Self::Panicked) | The service or the body panicked, even if an outer layer caught the panic. |
/// | [`Unfinished`](Self::Unfinished) | The response is still open, and its tasks could not wait: [`start_within`](crate::SupervisorBuilder::start_within) ran out, or the grace of a shutdown is over. |
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
    /// The server has all of the response. With [`StartOn::LastByteSent`](crate::StartOn) the
    /// socket has it.
    Complete,
    /// The body was dropped before its end.
    Interrupted,
    /// The response is broken: see [`ResponseEnd::error`].
    Failed,
    /// The service returned an error instead of a response.
    ServiceError,
    /// The response future was dropped before it had a head.
    NoResponse,
    /// The service or the body panicked.
    Panicked,
    /// The response is still open.
    Unfinished,
}

/// Why a response ended as [`EndKind::Failed`].
///
/// # Examples
///
/// ```
/// use tower_background::report::ResponseError;
///
/// assert_eq!(ResponseError::Body.to_string(), "the body returned an error");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseError {
    /// The body returned an error. The error itself goes to the server, as it would without this
    /// crate.
    Body,
    /// The body ended before the declared length, so the client sees a broken response.
    #[non_exhaustive]
    TooShort {
        /// The length that the head declared, in bytes.
        declared: u64,
        /// What the body yielded, in bytes.
        yielded: u64,
    },
    /// The body yielded more than the declared length over HTTP/2, so the client resets the stream
    /// ([RFC 9113, section 8.1.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1)). Over
    /// HTTP/1 a server cuts off the surplus, and the response is complete.
    #[non_exhaustive]
    TooLong {
        /// The length that the head declared, in bytes.
        declared: u64,
        /// What the body yielded, in bytes.
        yielded: u64,
    },
    /// The exact size of the body is not the length that the head declared. Servers send the
    /// declared length and go by the exact size.
    #[non_exhaustive]
    Contradicted {
        /// The length that the head declared, in bytes.
        declared: u64,
        /// The exact size that the body stated, in bytes.
        hinted: u64,
    },
    /// The `content-length` of a response over HTTP/2 is not a number, so the client resets the
    /// stream.
    InvalidLength,
    /// The body yielded data where none is allowed (`HEAD`, 204, 304) over HTTP/2. HTTP/1 servers
    /// do not send such data.
    NotAllowed,
    /// The status is an informational one (100-199), which no server sends as the final status. 101
    /// over HTTP/1.1 is the exception. hyper answers with a 500 or resets the stream.
    InformationalStatus,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => f.write_str("the body returned an error"),
            Self::TooShort { declared, yielded } => {
                write!(
                    f,
                    "the body ended after {yielded} of {declared} declared bytes"
                )
            }
            Self::TooLong { declared, yielded } => {
                write!(
                    f,
                    "the body yielded {yielded} bytes, but the head declared {declared}"
                )
            }
            Self::Contradicted { declared, hinted } => {
                write!(
                    f,
                    "the body stated a size of {hinted} bytes, but the head declared {declared}"
                )
            }
            Self::InvalidLength => f.write_str("the `content-length` is not a number"),
            Self::NotAllowed => {
                f.write_str("the body yielded data, but this response must have none")
            }
            Self::InformationalStatus => {
                f.write_str("the status is informational, and no server sends it as a final one")
            }
        }
    }
}

impl Error for ResponseError {}

/// How a response ended, and everything that is known about it then.
///
/// A task reads it by [`TaskContext::end`](crate::TaskContext::end), and a condition gets it from
/// [`When::matches`](crate::When::matches).
///
/// # Examples
///
/// ```
/// use tower_background::{BackgroundTasks, Task};
///
/// fn audit(tasks: &BackgroundTasks) {
///     tasks.add(Task::with_context(|cx| async move {
///         if let Some(end) = cx.end() {
///             println!("{} {} -> {:?}: {:?}, {} bytes", end.method(), end.path(), end.status(), end.kind(), end.bytes());
///         }
///     }));
/// }
/// # let _ = audit;
/// ```
#[derive(Debug, Clone)]
pub struct ResponseEnd {
    pub(super) request: RequestInfo,
    pub(super) details: EndDetails,
}

/// What the response itself has shown.
#[derive(Debug, Clone)]
pub(crate) struct EndDetails {
    pub(super) kind: EndKind,
    pub(super) error: Option<ResponseError>,
    pub(crate) status: Option<StatusCode>,
    pub(super) bytes: u64,
    pub(crate) bytes_sent: Option<u64>,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) is_grpc: bool,
    pub(super) grpc_status: Option<i32>,
    /// When the response had its head.
    pub(super) head_at: Option<Instant>,
    pub(super) ended_at: Instant,
}

impl EndDetails {
    /// Returns an end of this kind, of which nothing else is known.
    pub(crate) const fn new(kind: EndKind, ended_at: Instant) -> Self {
        Self {
            kind,
            error: None,
            status: None,
            bytes: 0,
            bytes_sent: None,
            trailers: None,
            is_grpc: false,
            grpc_status: None,
            head_at: None,
            ended_at,
        }
    }
}

impl ResponseEnd {
    pub(crate) const fn new(request: RequestInfo, details: EndDetails) -> Self {
        Self { request, details }
    }

    /// Returns what is kept of the request.
    pub(crate) const fn request(&self) -> &RequestInfo {
        &self.request
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

    /// Returns the path of the request without the query, cut at 1 KiB. It is empty for a target
    /// without a path, as that of `CONNECT`.
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
    /// A layer between this crate's and the server, such as compression, can change the number of
    /// bytes on the wire.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.details.bytes
    }

    /// Returns how many bytes of the body's data the socket took at least.
    ///
    /// It is only known with [`StartOn::LastByteSent`](crate::StartOn) on a connection that this
    /// crate tracks (feature `sent`). It is all of [`bytes`](Self::bytes) if the end is
    /// [`EndKind::Complete`].
    #[must_use]
    pub const fn bytes_sent(&self) -> Option<u64> {
        self.details.bytes_sent
    }

    /// Returns the trailers of the body, if it yielded any.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.details.trailers.as_deref()
    }

    /// Returns the value of `grpc-status`, from the trailers or else from the head, where
    /// [gRPC](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses) puts it if
    /// there is no message.
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

    /// Returns whether the response tells of a success: its status is below 400, and its gRPC
    /// status is absent or 0.
    ///
    /// The client may have left before the end. A gRPC response without its trailers is no success,
    /// and neither is a response that ended as [`EndKind::Failed`] or [`EndKind::Panicked`].
    #[must_use]
    pub fn is_success(&self) -> bool {
        let EndDetails {
            kind,
            status,
            is_grpc,
            grpc_status,
            ..
        } = self.details;
        let is_intact = matches!(
            kind,
            EndKind::Complete | EndKind::Interrupted | EndKind::Unfinished
        );
        let grpc_is_ok = match grpc_status {
            Some(status) => status == 0,
            None => !is_grpc,
        };
        is_intact && grpc_is_ok && status.is_some_and(|status| status.as_u16() < 400)
    }
}
