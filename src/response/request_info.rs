//! What is known of a request, while its response is open and after that.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, uri::PathAndQuery};
use tokio::time::Instant;

use crate::util::{RequestFields, Text};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request from its first line, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) started: Instant,
}

/// The rest of a request whose response is open. It shares the buffer of the request, so it costs
/// no copy.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    path: Option<PathAndQuery>,
    id: Option<Box<HeaderValue>>,
}

impl OpenRequest {
    /// Notes a request that just arrived. `keep_id` says whether somebody may want its
    /// `x-request-id`.
    pub(crate) fn new<B>(request: &Request<B>, keep_id: bool) -> Self {
        let id = if keep_id {
            request_id(request.headers())
        } else {
            None
        };
        Self {
            path: request.uri().path_and_query().cloned(),
            id: id.cloned().map(Box::new),
        }
    }

    /// Returns the path without the query. A target such as that of `CONNECT` has no path, so it is
    /// empty.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// Notes the request id that a middleware has set after this request was opened.
    pub(crate) fn note_id(&mut self, headers: &HeaderMap) {
        if self.id.is_none() {
            self.id = request_id(headers).cloned().map(Box::new);
        }
    }

    /// Copies what is kept after the response.
    pub(crate) fn to_kept(&self) -> KeptRequest {
        KeptRequest {
            path: Text::from(self.path()),
            id: self.id.as_deref().and_then(copy_id),
        }
    }
}

fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    if headers.is_empty() {
        None
    } else {
        headers.get(REQUEST_ID)
    }
}

/// What is kept of an [`OpenRequest`] after its response: owned copies of bounded length.
#[derive(Debug, Clone)]
pub(crate) struct KeptRequest {
    path: Text,
    id: Option<Box<Text>>,
}

impl KeptRequest {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Notes the request id that a middleware has set after this copy was made.
    pub(crate) fn note_id(&mut self, headers: &HeaderMap) {
        if self.id.is_none() {
            self.id = request_id(headers).and_then(copy_id);
        }
    }
}

/// What tasks, logs and observers learn of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestInfo {
    head: RequestHead,
    kept: KeptRequest,
}

impl RequestInfo {
    pub(crate) fn new(head: &RequestHead, kept: KeptRequest) -> Self {
        Self {
            head: head.clone(),
            kept,
        }
    }

    pub(crate) const fn method(&self) -> &Method {
        &self.head.method
    }

    pub(crate) fn path(&self) -> &str {
        self.kept.path()
    }

    pub(super) const fn version(&self) -> Version {
        self.head.version
    }

    pub(crate) const fn started(&self) -> Instant {
        self.head.started
    }

    /// Returns what events and spans say of a request, or of a task without one.
    pub(crate) fn fields(request: Option<&Self>) -> RequestFields<'_> {
        request.map_or_else(RequestFields::default, |request| {
            let id = request.kept.id.as_deref().map(|id| &**id);
            RequestFields::new(request.head.method.as_str(), request.path(), id)
        })
    }
}

#[cold]
fn copy_id(id: &HeaderValue) -> Option<Box<Text>> {
    Some(Box::new(Text::from(id.to_str().ok()?)))
}
