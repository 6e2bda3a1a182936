//! How a response was over, and all that is known of it then.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode, Version};

use crate::exchange::{Ended, Exchange, Rare};

/// The way in which a response was over.
///
/// | | when |
/// |---|---|
/// | [`Complete`](Self::Complete) | the end of the body was seen, or the response can have no body, or (HTTP/1) the declared length was reached |
/// | [`Aborted`](Self::Aborted) | the body was dropped before that: client gone, stream reset, server stopped; with [`Release::Sent`](crate::Release::Sent), also after that, before the socket took all of it |
/// | [`BodyError`](Self::BodyError) | the body failed, or what it yielded is not what its head had declared; see [`ResponseEnd::error`] |
/// | [`ServiceError`](Self::ServiceError) | the service returned an error instead of a response |
/// | [`Cancelled`](Self::Cancelled) | the response future was dropped before it had a head: client gone, an outer timeout |
/// | [`Panicked`](Self::Panicked) | the service or the body panicked, or was dropped by a panic |
/// | [`Unfinished`](Self::Unfinished) | it is not over: [`release_after`](crate::SupervisorBuilder::release_after) ran out first |
///
/// # Examples
///
/// ```
/// use tower_background::{End, Task};
///
/// let task = Task::with_context(|cx| async move {
///     if cx.end().kind() == End::Aborted {
///         println!("the client left after {} bytes", cx.end().bytes());
///     }
/// });
/// # drop(task);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// All of the response was handed to the server; with [`Release::Sent`](crate::Release::Sent) on a tracked connection, the
    /// socket took it.
    Complete,
    /// The body was dropped before its end, or the connection died before all of it was sent.
    Aborted,
    /// The body failed, or contradicted its head.
    BodyError,
    /// The service returned an error.
    ServiceError,
    /// The response future was dropped before it had a head.
    Cancelled,
    /// The service or the body panicked, or was dropped by a panic that unwinds.
    Panicked,
    /// The response is still open: its tasks were released by [`release_after`](crate::SupervisorBuilder::release_after).
    Unfinished,
}

/// What was wrong with a body that ended as [`End::BodyError`].
///
/// The error value itself goes to the server, as it would without this crate.
///
/// # Examples
///
/// ```
/// use tower_background::BodyError;
///
/// assert_eq!(BodyError::Failed.to_string(), "the body returned an error");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyError {
    /// The body returned an error.
    Failed,
    /// The body ended before the declared length: the client sees a broken response.
    #[non_exhaustive]
    TooShort {
        /// The length that the head had declared, in bytes.
        declared: u64,
        /// What the body yielded, in bytes.
        yielded: u64,
    },
    /// The body yielded more than the declared length over HTTP/2: the client resets the stream. Over HTTP/1 the server cuts
    /// the surplus off, and the response is whole.
    #[non_exhaustive]
    TooLong {
        /// The length that the head had declared, in bytes.
        declared: u64,
        /// What the body yielded, in bytes.
        yielded: u64,
    },
    /// The body's exact size is not the length that the head had declared: servers send the one and go by the other, so that
    /// the client waits for what does not come, or takes the surplus for the next response.
    #[non_exhaustive]
    Contradicted {
        /// The length that the head had declared, in bytes.
        declared: u64,
        /// The size that the body had stated, in bytes.
        hinted: u64,
    },
    /// The body yielded data where there must be none (`HEAD`, 204, 304) over HTTP/2, which sends it. HTTP/1 servers do not.
    NotAllowed,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("the body returned an error"),
            Self::TooShort { declared, yielded } => {
                write!(f, "the body ended after {yielded} of {declared} declared bytes")
            }
            Self::TooLong { declared, yielded } => {
                write!(f, "the body yielded {yielded} bytes and had declared {declared}")
            }
            Self::Contradicted { declared, hinted } => {
                write!(f, "the body stated a size of {hinted} bytes and its head had declared {declared}")
            }
            Self::NotAllowed => f.write_str("the body yielded data to a response that must have none"),
        }
    }
}

impl Error for BodyError {}

/// What is known of a response when its tasks are released.
///
/// A task reads it by [`TaskContext::end`](crate::TaskContext::end), a condition gets it in
/// [`When::matches`](crate::When::matches).
///
/// # Examples
///
/// ```
/// use tower_background::{BackgroundTasks, Task};
///
/// fn audit(tasks: &BackgroundTasks) {
///     tasks.add(Task::with_context(|cx| async move {
///         let end = cx.end();
///         println!("{} {} -> {:?}: {:?}, {} bytes", end.method(), end.path(), end.status(), end.kind(), end.bytes());
///     }));
/// }
/// # let _ = audit;
/// ```
#[derive(Clone)]
pub struct ResponseEnd {
    exchange: Arc<dyn AsRef<Exchange> + Send + Sync>,
    unfinished: bool,
}

impl ResponseEnd {
    /// The end of an exchange, or what was known of it at an earlier release.
    pub(crate) fn new(exchange: Arc<dyn AsRef<Exchange> + Send + Sync>, unfinished: bool) -> Self {
        Self { exchange, unfinished }
    }

    fn exchange(&self) -> &Exchange {
        (*self.exchange).as_ref()
    }

    fn ended(&self) -> Ended {
        self.exchange().ended(self.unfinished)
    }

    fn rare(&self) -> Option<&Rare> {
        self.exchange().rare(self.unfinished)
    }

    /// How the response was over.
    #[must_use]
    pub fn kind(&self) -> End {
        self.ended().kind
    }

    /// What was wrong with the body, if the end is [`End::BodyError`].
    #[must_use]
    pub fn error(&self) -> Option<BodyError> {
        self.rare()?.error
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.exchange().method
    }

    /// The request's path without the query; empty for a target that has none, as `CONNECT` has.
    #[must_use]
    pub fn path(&self) -> &str {
        self.exchange().path()
    }

    /// The response's status, if there was a response.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.ended().head.map(|head| head.status)
    }

    /// The protocol: the request's version, or the response's where that says HTTP/2 or later, as around a client it does.
    #[must_use]
    pub fn version(&self) -> Version {
        self.ended().head.map_or(self.exchange().version, |head| head.version)
    }

    /// How many bytes of data the body had yielded. What was yielded may not have been sent, see
    /// [`bytes_sent`](Self::bytes_sent).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ended().bytes
    }

    /// How many bytes of the body's data the socket is known to have taken: all where the end is [`End::Complete`], at least so
    /// many elsewhere. Known where the tasks wait for that, by [`Release::Sent`](crate::Release::Sent) on a connection that this
    /// crate tracks; how near the figure is for each protocol is told in `guide::sent`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Release, Task};
    ///
    /// fn download(tasks: &BackgroundTasks) {
    ///     tasks.release(Release::Sent);
    ///     tasks.add(Task::with_context(|cx| async move {
    ///         if let (false, Some(sent)) = (cx.end().is_complete(), cx.end().bytes_sent()) {
    ///             println!("at least {sent} of {} bytes went out", cx.end().bytes());
    ///         }
    ///     }));
    /// }
    /// # let _ = download;
    /// ```
    #[must_use]
    pub fn bytes_sent(&self) -> Option<u64> {
        let ended = self.ended();
        if ended.all_sent { Some(ended.bytes) } else { self.rare()?.bytes_sent }
    }

    /// The body's trailers, if it yielded any.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.rare()?.trailers.as_ref()
    }

    /// The value of `grpc-status`, from the trailers or else from the head, where
    /// [gRPC](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses) puts it if there is no message.
    #[must_use]
    pub fn grpc_status(&self) -> Option<i32> {
        self.exchange().grpc_status(self.unfinished)
    }

    /// The time from the call of the service to the head of its response, if there was one.
    #[must_use]
    pub fn time_to_head(&self) -> Option<Duration> {
        self.ended().head.map(|head| head.at.saturating_duration_since(self.exchange().started))
    }

    /// The time from the call of the service to this end.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.ended().at.saturating_duration_since(self.exchange().started)
    }

    /// Whether the response is whole: the end is [`End::Complete`].
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.kind() == End::Complete
    }

    /// Whether the response is complete, its status below 400, and its gRPC status 0 or absent.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.exchange().is_success(self.unfinished)
    }
}

impl fmt::Debug for ResponseEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseEnd")
            .field("kind", &self.kind())
            .field("error", &self.error())
            .field("method", self.method())
            .field("path", &self.path())
            .field("status", &self.status())
            .field("version", &self.version())
            .field("bytes", &self.bytes())
            .field("bytes_sent", &self.bytes_sent())
            .field("trailers", &self.trailers())
            .field("grpc_status", &self.grpc_status())
            .field("time_to_head", &self.time_to_head())
            .field("elapsed", &self.elapsed())
            .finish()
    }
}

/// Reads `grpc-status` from a head or from trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.trim().parse().ok()
}
