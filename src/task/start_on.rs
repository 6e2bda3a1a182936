//! [`StartOn`]: when the tasks of a request start.

/// When the tasks of a request start.
///
/// [`start_within`](crate::SupervisorBuilder::start_within) can start tasks earlier. The end of a
/// shutdown's grace starts [shutdown fallbacks](crate::Task::shutdown_fallback) earlier.
///
/// # Examples
///
/// ```
/// use tower_background::{StartOn, Supervisor};
///
/// let supervisor = Supervisor::builder().start_on(StartOn::EndOfStream).build();
/// # drop(supervisor);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartOn {
    /// When the response body returned `None` or was dropped, whichever is first. The server then
    /// has all of the response, but it may not have written the last bytes yet.
    #[default]
    EndOfStream,
    /// When the socket took the last byte of the response. This needs a connection that this crate
    /// tracks: see the module [`sent`](crate::sent). On any other connection the tasks start when
    /// the body was dropped.
    ///
    /// A response whose connection dies before its last byte ends as
    /// [`EndKind::Interrupted`](crate::EndKind::Interrupted).
    #[cfg(feature = "sent")]
    LastByteSent,
}

impl StartOn {
    /// Returns whether tasks wait for the last byte.
    pub(crate) const fn is_last_byte(self) -> bool {
        !matches!(self, Self::EndOfStream)
    }
}
