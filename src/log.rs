//! Logging that costs nothing, and needs no `cfg` where it is called, without the `tracing` feature.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, error, warn};

/// Whether anything is logged at all, for what is worked out only to be logged.
pub(crate) const IS_ON: bool = cfg!(feature = "tracing");

#[cfg(feature = "tracing")]
mod span {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use tracing::level_filters::LevelFilter;

    use crate::{exchange::Exchange, sync::OnceLock};

    /// The request's own name for itself, for the spans of its tasks.
    #[derive(Debug, Default)]
    pub(crate) struct RequestId(OnceLock<HeaderValue>);

    impl RequestId {
        pub(crate) fn of(headers: &HeaderMap) -> Self {
            let id = Self::default();
            id.note(headers);
            id
        }

        /// Reads it, where it is not known and a span could tell it. A layer may have set it since the request came.
        pub(crate) fn note(&self, headers: &HeaderMap) {
            const HEADER: HeaderName = HeaderName::from_static("x-request-id");
            if LevelFilter::current() < LevelFilter::INFO || self.0.get().is_some() {
                return;
            }
            if let Some(id) = headers.get(&HEADER) {
                self.0.get_or_init(|| id.clone());
            }
        }

        fn as_str(&self) -> Option<&str> {
            self.0.get()?.to_str().ok()
        }
    }

    /// A task's span: a root that follows from the span in which the task was added, and holds nothing of that.
    #[derive(Debug, Clone)]
    pub(crate) struct Span(tracing::Span);

    impl Span {
        /// Nothing where nobody listens.
        pub(crate) fn of_task(name: Option<&str>, request: &Exchange) -> Option<Self> {
            let span = tracing::info_span!(
                parent: None,
                "background_task",
                task = name,
                method = %request.method,
                path = request.path(),
                request_id = request.request_id.as_str(),
                outcome = tracing::field::Empty,
            );
            if span.is_disabled() {
                return None;
            }
            span.follows_from(tracing::Span::current());
            Some(Self(span))
        }

        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            self.0.in_scope(f)
        }

        pub(crate) fn outcome(&self, outcome: &str) {
            self.0.record("outcome", outcome);
        }
    }
}

/// Takes named fields and a message as `tracing`'s macros do, and logs nothing.
#[cfg(not(feature = "tracing"))]
macro_rules! nothing {
    ($($name:ident = $(%)? $value:expr,)* $message:literal) => {{
        let _ = ($(&$value,)* $message);
    }};
}

#[cfg(not(feature = "tracing"))]
pub(crate) use {nothing as debug, nothing as error, nothing as warn};

#[cfg(not(feature = "tracing"))]
mod span {
    use http::HeaderMap;

    use crate::exchange::Exchange;

    /// Nothing.
    #[derive(Debug, Default)]
    pub(crate) struct RequestId(());

    impl RequestId {
        pub(crate) const fn of(_headers: &HeaderMap) -> Self {
            Self(())
        }

        #[expect(clippy::unused_self, reason = "it has the signature of the one that is something")]
        pub(crate) const fn note(&self, _headers: &HeaderMap) {}
    }

    /// Nothing.
    #[derive(Debug, Clone)]
    pub(crate) struct Span;

    impl Span {
        pub(crate) const fn of_task(_name: Option<&str>, _request: &Exchange) -> Option<Self> {
            None
        }

        #[expect(clippy::unused_self, reason = "it has the signature of a span's")]
        pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
            f()
        }

        #[expect(clippy::unused_self, reason = "it has the signature of a span's")]
        pub(crate) const fn outcome(&self, _outcome: &str) {}
    }
}

pub(crate) use span::{RequestId, Span};
