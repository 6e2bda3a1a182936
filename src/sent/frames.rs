//! Puts guards into the frames of a response over HTTP/2.
//!
//! A guard owns the bytes of some data, or of a value of the head or the trailers. The server holds
//! these bytes until it has written or discarded them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::guard::FrameGuard;

/// What the server has seen of the end of a body.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Whether the last frame has passed, or the head is the last frame.
    has_passed: bool,
    /// Whether an empty frame was sent in place of the body's `None`.
    has_end_frame: bool,
    /// Whether the body must still return that `None`.
    owes_none: bool,
}

impl Ending {
    pub(super) const fn note_last(&mut self, is_last: bool) {
        self.has_passed |= is_last;
    }

    pub(super) const fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Returns an empty last frame with a guard, for a body that tells its end only by `None`.
    ///
    /// Such a body has no last frame for a guard. The server would send the same empty frame when
    /// it sees the `None`.
    pub(super) fn end_frame(
        &mut self,
        guard: impl FnOnce() -> Option<FrameGuard>,
    ) -> Option<Bytes> {
        let frame = with_guard(Bytes::new(), guard()?);
        (self.has_end_frame, self.owes_none) = (true, true);
        Some(frame)
    }

    /// Returns whether the body must return the `None` now that an end frame replaced. The next
    /// call returns `false`.
    pub(super) const fn take_owed_none(&mut self) -> bool {
        std::mem::replace(&mut self.owes_none, false)
    }

    pub(super) const fn has_end_frame(&self) -> bool {
        self.has_end_frame
    }
}

/// Puts a guard into data.
pub(super) fn guard_data(data: &mut Bytes, guard: Option<FrameGuard>) {
    if let Some(guard) = guard {
        *data = with_guard(std::mem::take(data), guard);
    }
}

/// Puts a guard into one of the values.
///
/// The value is marked as sensitive, because HTTP/2 may keep other values in its compression table
/// after it has written them.
pub(super) fn guard_headers(headers: &mut HeaderMap, guard: impl FnOnce() -> Option<FrameGuard>) {
    let connection = headers.get(header::CONNECTION).cloned();
    let mut values = headers.iter_mut();
    let Some((_, value)) = values.find(|(name, _)| is_sent(name, connection.as_ref())) else {
        return;
    };
    let Some(guard) = guard() else { return };
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    if let Ok(mut guarded) = HeaderValue::from_maybe_shared(with_guard(bytes, guard)) {
        guarded.set_sensitive(true);
        *value = guarded;
    }
}

/// Returns whether HTTP/2 sends this header. A server removes the headers that `connection` names:
/// [RFC 9110, section 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1).
fn is_sent(name: &HeaderName, connection: Option<&HeaderValue>) -> bool {
    let removed = connection.and_then(|value| value.to_str().ok());
    let is_removed = removed.is_some_and(|names| {
        let mut names = names.split(',');
        names.any(|removed| removed.trim().eq_ignore_ascii_case(name.as_str()))
    });
    let is_forbidden = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
    ]
    .contains(name)
        || ["keep-alive", "proxy-connection"].contains(&name.as_str());
    !is_removed && !is_forbidden
}

/// Bytes that own a guard.
struct Guarded {
    bytes: Bytes,
    _guard: FrameGuard,
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn with_guard(bytes: Bytes, guard: FrameGuard) -> Bytes {
    Bytes::from_owner(Guarded {
        bytes,
        _guard: guard,
    })
}
