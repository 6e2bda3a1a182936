//! [`Delivery`]: what follows a response from its body to the socket.
//!
//! The feature `sent` implements it.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;

use super::ended::EndedResponse;

/// Follows one response on a tracked connection.
pub(crate) trait Delivery: Send + Sync {
    /// The head passes.
    fn head(&mut self);

    /// Data of `length` bytes passes. `before` is how many bytes have passed before. `data` is `None`
    /// if it is of another type than [`Bytes`].
    fn data(&mut self, data: Option<&mut Bytes>, length: usize, is_last: bool, before: u64);

    /// Trailers pass. `before` is how many bytes of data have passed before.
    fn trailers(&mut self, before: u64);

    /// The body is dropped. The response ends when it is known what became of it.
    fn wait(self: Box<Self>, response: EndedResponse);
}

/// A tracked connection, as a request sees it.
pub(crate) trait Connection: Send + Sync {
    /// Starts to follow the response.
    fn follow(self: Arc<Self>) -> Box<dyn Delivery>;
}

/// The tracked connection of a request, in its extensions.
#[derive(Clone)]
pub(crate) struct TrackedConnection(pub(crate) Arc<dyn Connection>);

/// What follows one response.
pub(super) type Followed = Box<dyn Delivery>;

/// Starts to follow the response to a request, if that came over a tracked connection.
pub(super) fn follow(extensions: &Extensions) -> Option<Followed> {
    let connection = extensions.get::<TrackedConnection>()?;
    Some(Arc::clone(&connection.0).follow())
}
