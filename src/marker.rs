//! A marker in the response's extensions, for bodies that are dropped before the head was sent.
//!
//! axum answers `HEAD` by replacing the body outside of its routes, and tonic discards a body that is at its end. The body
//! then hands its lease to the marker, which the server drops when it has encoded the head.

use std::sync::PoisonError;

use crate::{
    lease::Lease,
    sync::{Arc, Mutex, Weak},
};

type Place = Mutex<Option<Lease>>;

/// The marker. A copy of it, in a copy of the extensions, is empty, so that no cache can hold a response open.
#[derive(Debug)]
pub(crate) struct HeadMarker(#[expect(dead_code, reason = "it is held for its drop")] Option<Arc<Place>>);

/// The body's way to the marker.
#[derive(Debug)]
pub(crate) struct MarkerLink(Weak<Place>);

impl HeadMarker {
    pub(crate) fn new() -> (Self, MarkerLink) {
        let place = Arc::default();
        let link = MarkerLink(Arc::downgrade(&place));
        (Self(Some(place)), link)
    }
}

impl Clone for HeadMarker {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl MarkerLink {
    /// Leaves the lease to the marker; where that is gone, the lease ends the response now.
    pub(crate) fn hand_over(&self, lease: Lease) {
        if let Some(place) = self.0.upgrade() {
            let before = place.lock().unwrap_or_else(PoisonError::into_inner).replace(lease);
            debug_assert!(before.is_none(), "there is one lease for a request");
        }
    }
}
