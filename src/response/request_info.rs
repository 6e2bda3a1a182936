//! What is known of a request.

use http::{HeaderMap, HeaderName, Method, Request, Version, uri::PathAndQuery};
use tokio::time::Instant;

use crate::util::{RequestFields, Text};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is known of a request from its first line, and when it came.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The path without the query. A target such as that of `CONNECT` has no path, so it is empty.
    pub(crate) path: Text,
    pub(crate) started: Instant,
}

impl RequestHead {
    #[inline]
    pub(crate) fn new<B>(request: &Request<B>, started: Instant) -> Self {
        let path = request.uri().path_and_query();
        Self {
            method: request.method().clone(),
            version: request.version(),
            path: Text::from(path.map_or("", PathAndQuery::path)),
            started,
        }
    }
}

/// Returns a copy of the `x-request-id` of a request.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<Box<Text>> {
    if headers.is_empty() {
        return None;
    }
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    Some(Box::new(Text::from(id)))
}

/// What tasks, logs and observers learn of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestInfo {
    head: RequestHead,
    id: Option<Box<Text>>,
}

impl RequestInfo {
    pub(crate) fn new(head: &RequestHead, id: Option<Box<Text>>) -> Self {
        Self {
            head: head.clone(),
            id,
        }
    }

    pub(crate) const fn method(&self) -> &Method {
        &self.head.method
    }

    pub(crate) fn path(&self) -> &str {
        &self.head.path
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
            let id = request.id.as_deref().map(|id| &**id);
            RequestFields::new(request.head.method.as_str(), request.path(), id)
        })
    }
}
