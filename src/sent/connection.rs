//! [`SentConnection`]: the handle of a tracked connection.

use std::{fmt, sync::Arc};

use super::state::ConnectionState;

/// A handle of a tracked connection. [`SentStream::connection`](super::SentStream::connection)
/// returns it.
///
/// It is a layer for the service of the connection. The layer tells each request which connection
/// it came over. Add it outside all other layers.
///
/// # Examples
///
/// ```
/// use tower::Layer;
/// use tower_background::sent::SentStream;
///
/// let (stream, _other_end) = tokio::io::duplex(1024);
/// let stream = SentStream::new(stream);
/// let service = stream.connection().layer("the service for this connection");
/// assert_eq!(service.get_ref(), &"the service for this connection");
/// ```
#[derive(Clone)]
pub struct SentConnection {
    pub(super) state: Arc<ConnectionState>,
}

impl SentConnection {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::default(),
        }
    }
}

impl fmt::Debug for SentConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentConnection").finish_non_exhaustive()
    }
}
