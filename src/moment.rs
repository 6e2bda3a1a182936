//! [`Release`]: the moment from which the tasks of a response may start.

/// The moment from which the tasks of a response may start.
///
/// `release_after` and a shutdown come before either where they are first.
///
/// # Examples
///
/// ```
/// use tower_background::{Release, Supervisor};
///
/// let supervisor = Supervisor::builder().release(Release::Sent).build();
/// # drop(supervisor);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Release {
    /// When the server has seen the end of the body, or has dropped it. What it took may not be written yet.
    #[default]
    EndOfStream,
    /// As late as can be known: on a connection that this crate tracks (feature `sent`), when the socket took the last byte of
    /// the response; on any other, when the body was dropped and the head was sent, also where the body had returned `None`
    /// before, as below a layer that compresses.
    ///
    /// A response whose connection dies before its last byte was taken ends as [`End::Aborted`](crate::End::Aborted), and
    /// [`bytes_sent`](crate::ResponseEnd::bytes_sent) tells how much was. Over HTTP/2 the last frame of a tracked response is
    /// marked: see `guide::sent`.
    Sent,
}
