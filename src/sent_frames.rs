//! Puts guards into the frames of a response over HTTP/2: as the owner of the bytes of data, or of a value of the head or the
//! trailers. A server holds them until they are written, or thrown away.

use std::any::Any;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::Frame;

use crate::sent_guard::Guard;

/// How far the end of a body was told.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The last frame has passed, or is the head.
    pub(crate) passed: bool,
    /// An end was told by an empty frame.
    told: bool,
    /// And the body's `None` is still to come.
    owes_none: bool,
}

impl Ending {
    /// Of a body that may be at its end with the head.
    pub(crate) const fn new(passed: bool) -> Self {
        Self { passed, told: false, owes_none: false }
    }

    /// An empty frame with a guard, which is the last: for a body whose end is known only from its `None`, so that the server
    /// has nothing to put a guard into. On the wire it is the frame by which the server tells the end anyway.
    pub(crate) fn tell<D: 'static>(&mut self, guard: impl FnOnce() -> Option<Guard>) -> Option<Frame<D>> {
        let mut data = None::<D>;
        let empty = (&mut data as &mut dyn Any).downcast_mut::<Option<Bytes>>()?;
        *empty = Some(guarded(Bytes::new(), guard()?));
        (self.told, self.owes_none) = (true, true);
        data.map(Frame::data)
    }

    pub(crate) const fn owes_none(&mut self) -> bool {
        std::mem::replace(&mut self.owes_none, false)
    }

    pub(crate) const fn is_told(&self) -> bool {
        self.told
    }
}

/// Puts a guard for so much data into a frame of it.
pub(crate) fn guard_data<D: Buf + 'static>(frame: Frame<D>, guard: impl FnOnce(usize) -> Option<Guard>) -> Frame<D> {
    frame.map_data(|mut data| {
        if let Some(bytes) = (&mut data as &mut dyn Any).downcast_mut::<Bytes>() {
            if let Some(guard) = guard(bytes.len()) {
                *bytes = guarded(std::mem::take(bytes), guard);
            }
        }
        data
    })
}

/// Puts a guard into one of the values. It is marked as sensitive, as HTTP/2 would keep any other in a table.
pub(crate) fn guard_headers(headers: &mut HeaderMap, guard: impl FnOnce() -> Option<Guard>) {
    let Some((_, value)) = headers.iter_mut().find(|(name, _)| is_kept(name)) else { return };
    let Some(guard) = guard() else { return };
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    if let Ok(mut marked) = HeaderValue::from_maybe_shared(guarded(bytes, guard)) {
        marked.set_sensitive(true);
        *value = marked;
    }
}

/// Bytes that hold a guard.
struct Guarded {
    bytes: Bytes,
    _guard: Guard,
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn guarded(bytes: Bytes, guard: Guard) -> Bytes {
    Bytes::from_owner(Guarded { bytes, _guard: guard })
}

/// Whether HTTP/2 has this header.
fn is_kept(name: &HeaderName) -> bool {
    ![header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE].contains(name)
        && !["keep-alive", "proxy-connection"].contains(&name.as_str())
}
