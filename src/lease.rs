//! The right to end a response, which exists once per request and is used up by ending it.
//!
//! A [`Lease`] is opened with the request and moves along with what is responsible for the response: the response future,
//! then the body, at times the head's marker. Its drop ends the response, so a response ends exactly once, whoever drops it
//! and for whatever reason. Nothing else ends one.

use bytes::Buf;
use http::{Method, Request, Response};
use http_body::{Body, Frame};

use crate::{
    current::Scope,
    end::End,
    marker::{HeadMarker, MarkerLink},
    progress::{Progress, Verdict},
    supervisor::Supervisor,
    tasks::BackgroundTasks,
};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Lease {
    scope: Scope,
    progress: Progress,
    /// Where the lease goes, instead of ending the response, when the body is dropped before the head was sent.
    marker: Option<MarkerLink>,
    verdict: Option<Box<Verdict>>,
}

impl Lease {
    /// Gives the request a registry. Nothing if it has an open one of the same supervisor: the layer that opened that one is
    /// farther out, and ends the response.
    pub(crate) fn open<B>(supervisor: &Supervisor, request: &mut Request<B>) -> Option<Self> {
        let found = request.extensions().get::<BackgroundTasks>();
        if found.and_then(|found| found.of(supervisor)).is_some_and(|joined| !joined.exchange().is_over()) {
            return None;
        }
        let tasks = BackgroundTasks::open(supervisor, request, found.cloned());
        request.extensions_mut().insert(tasks.clone());
        Some(Self { scope: Scope::new(tasks), progress: Progress::default(), marker: None, verdict: None })
    }

    /// Runs the service's or the body's code with the request's registry as the current one.
    pub(crate) fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.progress.before_user_code();
        let result = self.scope.run(f);
        self.progress.after_user_code();
        result
    }

    /// Notes the head of the response.
    pub(crate) fn head<B: Body>(&mut self, response: &mut Response<B>) {
        let Some(tasks) = self.scope.tasks() else { return };
        let head = self.progress.head(tasks.exchange(), response);
        let may_lose_body = tasks.exchange().method == Method::HEAD || head.grpc_status.is_some();
        tasks.note_head(head);
        if may_lose_body && tasks.is_watched() {
            let (marker, link) = HeadMarker::new();
            response.extensions_mut().insert(marker);
            self.marker = Some(link);
        }
    }

    /// Notes a frame of the body, and whether the body is at its end now.
    pub(crate) fn frame<D: Buf>(&mut self, frame: &Frame<D>, at_end: bool) {
        let Some(tasks) = self.scope.tasks() else { return };
        self.progress.frame(frame, at_end, || tasks.is_watched());
        tasks.note_bytes(self.progress.bytes());
    }

    /// Notes that the body has nothing yet.
    pub(crate) const fn pending(&mut self) {
        self.progress.pending();
    }

    /// Notes that the body failed.
    pub(crate) const fn failed(&mut self) {
        self.progress.failed();
    }

    /// Ends the response, as the body returned `None`.
    pub(crate) fn ended(mut self) {
        self.progress.ended();
        self.marker = None;
    }

    /// Ends the response, as the service returned an error.
    pub(crate) fn service_failed(mut self) {
        self.verdict = Some(Box::new((End::ServiceError, None)));
    }

    /// Makes the registry the current one while what this lease stands beside is dropped.
    pub(crate) fn enter_until_drop(&mut self) {
        self.scope.enter_until_drop();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(tasks) = self.scope.take() else { return };
        let progress = std::mem::take(&mut self.progress);
        let verdict = self.verdict.take().map_or_else(|| progress.verdict(), |verdict| *verdict);
        match self.marker.take() {
            Some(marker) => {
                let verdict = Some(Box::new(verdict));
                marker.hand_over(Self { scope: Scope::new(tasks), progress, marker: None, verdict });
            }
            None => tasks.end(verdict, progress),
        }
    }
}
