//! [`Delivery`]: what follows a response from its body to the socket.
//!
//! The feature `sent` implements it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use super::ended::EndedResponse;

/// Follows one response on a tracked connection.
pub(crate) trait Delivery: Send + Sync {
    /// The head passes. It may be the last frame. Returns whether the server's side of the response
    /// is seen, whatever layers are in between.
    fn head(&mut self, headers: &mut HeaderMap, is_last: bool) -> bool;

    /// Data of `length` bytes passes, after `before` bytes. `data` is `None` if it is of another
    /// type than [`Bytes`].
    fn data(&mut self, data: Option<&mut Bytes>, length: usize, is_last: bool, before: u64);

    /// Trailers pass, after `before` bytes.
    fn trailers(&mut self, trailers: &mut HeaderMap, before: u64);

    /// The body has returned `None`. An empty frame can go out in its place, so that it can be
    /// followed.
    fn end_frame(&mut self) -> Option<Bytes>;

    /// The body is polled again, so whoever polls it has the frames before. Returns whether the body
    /// must return the `None` that an [`end_frame`](Self::end_frame) replaced.
    fn polled(&mut self) -> bool;

    /// The body is asked for its end, so whoever asks has the frames before. Returns whether an
    /// [`end_frame`](Self::end_frame) has told the end.
    fn has_told_end(&self) -> bool;

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
