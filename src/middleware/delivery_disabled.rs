//! [`Followed`] without the feature `sent`: no connection is tracked, so nothing follows a response.

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use super::ended::EndedResponse;

/// What follows one response, which nobody can create.
pub(super) enum Followed {}

/// Returns what follows the response to a request.
pub(super) const fn follow(_extensions: &Extensions) -> Option<Followed> {
    None
}

impl Followed {
    pub(super) const fn head(&self, _headers: &HeaderMap, _is_last: bool) -> bool {
        match *self {}
    }

    pub(super) const fn data(
        &self,
        _data: Option<&mut Bytes>,
        _length: usize,
        _is_last: bool,
        _before: u64,
    ) {
        match *self {}
    }

    pub(super) const fn trailers(&self, _trailers: &HeaderMap, _before: u64) {
        match *self {}
    }

    pub(super) const fn end_frame(&self) -> Option<Bytes> {
        match *self {}
    }

    pub(super) const fn has_told_end(&self) -> bool {
        match *self {}
    }

    pub(super) const fn polled(&self) -> bool {
        match *self {}
    }

    pub(super) fn wait(self, _response: EndedResponse) {
        match self {}
    }
}
