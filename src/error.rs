//! The errors of this crate.

use std::{error::Error, fmt};

use http::Method;

/// Any error that a task may return, boxed.
///
/// # Examples
///
/// ```
/// use tower_background::BoxError;
///
/// fn parse(input: &str) -> Result<u16, BoxError> {
///     Ok(input.parse()?)
/// }
///
/// assert!(parse("no number").is_err());
/// ```
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The request has no [`BackgroundTasks`](crate::BackgroundTasks), because no
/// [`BackgroundLayer`](crate::BackgroundLayer) wraps the service.
///
/// Its axum response is a `500 Internal Server Error`, and its `tonic::Status` is `INTERNAL`. An
/// ERROR event says what to do. The client only learns that the server is misconfigured.
///
/// `Debug` prints the same text as `Display`, so that the panic of `unwrap` says what to do.
///
/// # Examples
///
/// ```
/// use tower_background::BackgroundTasksExt;
///
/// let request = http::Request::new(());
/// let missing = request.background_tasks().unwrap_err();
/// assert!(missing.to_string().contains("BackgroundLayer"));
/// assert_eq!(missing.path(), Some("/"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct MissingLayer {
    /// The method and the path, in a box so that a `Result` with this error stays small.
    request: Option<Box<(Method, Box<str>)>>,
}

impl MissingLayer {
    /// The text for clients. They cannot fix the error, so it has no details.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(crate) const FOR_CLIENTS: &'static str = "the server is misconfigured";

    pub(crate) fn of_request(method: Method, path: Box<str>) -> Self {
        Self {
            request: Some(Box::new((method, path))),
        }
    }

    pub(crate) const fn of_unknown_request() -> Self {
        Self { request: None }
    }

    /// Returns the method of the request. `None` if the error comes from code that has only the
    /// extensions of the request, or a `tonic::Request`.
    #[must_use]
    pub fn method(&self) -> Option<&Method> {
        self.request.as_ref().map(|request| &request.0)
    }

    /// Returns the path of the request, without the query, cut at 1 KiB. `None` where
    /// [`method`](Self::method) is.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.request.as_ref().map(|request| &*request.1)
    }
}

impl fmt::Debug for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this request did not pass a `BackgroundLayer`: add the layer after the routes, as \
             `Router::new().route(..).layer(BackgroundLayer::with_supervisor(supervisor.clone()))`",
        )
    }
}

impl Error for MissingLayer {}

/// The calling code does not belong to a request.
///
/// Code belongs to a request if the handler, the response body or a task of that request runs it.
/// Code inside `tokio::spawn` belongs to no request. The code of a WebSocket, such as axum's
/// `on_upgrade`, does not either: use [`Supervisor::spawn`](crate::Supervisor::spawn) there.
///
/// `Debug` prints the same text as `Display`, so that the panic of `unwrap` says what to do.
///
/// # Examples
///
/// ```
/// let error = tower_background::defer(async {}).unwrap_err();
/// assert!(error.to_string().contains("clone of `BackgroundTasks`"));
/// assert!(error.to_string().contains("`Supervisor::spawn`"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotInRequest;

impl fmt::Debug for NotInRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NotInRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this code does not run inside a request that passed a `BackgroundLayer`: in \
             `tokio::spawn` or on a thread, use a clone of `BackgroundTasks` that you move there; \
             in a WebSocket, use `Supervisor::spawn`",
        )
    }
}

impl Error for NotInRequest {}
