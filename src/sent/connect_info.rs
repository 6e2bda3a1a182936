//! [`SentConnectInfo`]: a tracked connection in the extensions of a request.

use std::{fmt, sync::Arc};

use http::Extensions;

use super::connection::SentConnection;

/// A tracked connection, and the connect info of the stream that it wraps.
///
/// tonic's server takes the connect info of each stream, and puts it into the extensions of each
/// request. [`SentLayer`](super::SentLayer) replaces the `SentConnectInfo` there by the connect
/// info of the wrapped stream, so that tonic's `remote_addr` works inside of that layer.
///
/// # Examples
///
/// ```
/// use tower_background::sent::{SentConnectInfo, SentStream};
///
/// let (stream, _other_end) = tokio::io::duplex(1024);
/// let info = SentConnectInfo::new(SentStream::new(stream).connection(), "a client");
/// # drop(info);
/// ```
#[derive(Clone)]
pub struct SentConnectInfo {
    connection: SentConnection,
    insert_inner: Arc<dyn Fn(&mut Extensions) + Send + Sync>,
}

impl SentConnectInfo {
    /// Creates the connect info of a tracked connection. `inner` is the connect info that requests
    /// find in their extensions.
    pub fn new<C: Clone + Send + Sync + 'static>(connection: SentConnection, inner: C) -> Self {
        let insert_inner = Arc::new(move |extensions: &mut Extensions| {
            extensions.insert(inner.clone());
        });
        Self {
            connection,
            insert_inner,
        }
    }

    /// Takes the connection out of the extensions of a request, and puts the inner connect info
    /// into them.
    pub(super) fn take(extensions: &mut Extensions) -> Option<SentConnection> {
        let Self {
            connection,
            insert_inner,
        } = extensions.remove()?;
        insert_inner(extensions);
        Some(connection)
    }
}

impl fmt::Debug for SentConnectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentConnectInfo").finish_non_exhaustive()
    }
}
