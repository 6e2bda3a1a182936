//! The errors of this crate.

use std::{error::Error, fmt};

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
/// # Examples
///
/// ```
/// use tower_background::BackgroundTasksExt;
///
/// let request = http::Request::new(());
/// let missing = request.background_tasks().unwrap_err();
/// assert!(missing.to_string().contains("BackgroundLayer"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MissingLayer;

#[cfg(any(feature = "axum", feature = "tonic"))]
impl MissingLayer {
    /// The text for clients. They cannot fix the error, so it has no details.
    pub(crate) const FOR_CLIENTS: &'static str = "the server is misconfigured";
}

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this request did not pass a `BackgroundLayer`: add the layer after the routes, \
             as `Router::new().route(..).layer(BackgroundLayer::new())`",
        )
    }
}

impl Error for MissingLayer {}

/// The calling code does not belong to a request.
///
/// Code belongs to a request if the handler, the response body or a task of that request runs it.
/// Code inside `tokio::spawn` belongs to no request.
///
/// # Examples
///
/// ```
/// let error = tower_background::defer(async {}).unwrap_err();
/// assert!(error.to_string().contains("clone of `BackgroundTasks`"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotInRequest;

impl fmt::Display for NotInRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this code does not run inside a request that passed a `BackgroundLayer`: in \
             `tokio::spawn` or on a thread, use a clone of `BackgroundTasks` that you move there",
        )
    }
}

impl Error for NotInRequest {}
