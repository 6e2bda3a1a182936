//! The errors of this crate's own.

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

/// A request carries no task registry, because no [`BackgroundLayer`](crate::BackgroundLayer) is around the service.
///
/// As a rejection of the axum extractor it is a `500 Internal Server Error`, as a `tonic::Status` it is `INTERNAL`: the
/// fault is in how the service was put together, never in the request.
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

impl MissingLayer {
    /// Logs that the layer is missing where a response to a client must be made of it.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(crate) fn logged(self) -> Self {
        crate::log::error!(error = %self, "a request needs a task registry and has none");
        self
    }
}

impl fmt::Display for MissingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no task registry in this request: wrap the service in `BackgroundLayer`")
    }
}

impl Error for MissingLayer {}
