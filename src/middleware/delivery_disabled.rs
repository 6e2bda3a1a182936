//! [`Followed`] without the feature `sent`: no connection is tracked, so nothing follows a response.

use bytes::Bytes;
use http::Extensions;

use super::ended::EndedResponse;

/// What follows one response, which nobody can create.
pub(super) enum Followed {}

/// Returns what follows the response to a request.
pub(super) const fn follow(_extensions: &Extensions) -> Option<Followed> {
    None
}

impl Followed {
    pub(super) const fn head(&self) {
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

    pub(super) const fn trailers(&self, _before: u64) {
        match *self {}
    }

    pub(super) fn wait(self, _response: EndedResponse) {
        match self {}
    }
}
