//! [`ResponseTracker`]: sees what passes of a response, and ends it.
//!
//! The tracker moves with whatever is responsible for the response: first the response future, then
//! the body, and sometimes the head. Its drop ends the response. So every response ends exactly
//! once, whoever drops it and for whatever reason.

use std::{any::Any, fmt, sync::Arc};

use bytes::Buf;
use http::{Method, Request, Response, Uri};
use http_body::Frame;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    delivery::{Followed, follow},
    ended::EndedResponse,
    head_guard::{HeadGuard, HeadGuardLink},
};
use crate::{
    registry::{BackgroundTasks, Entered, RequestScope, RequestState},
    response::{BodyState, EndKind},
    supervisor::Supervisor,
};

/// See the module's documentation. It is empty if a layer farther out tracks the response.
#[derive(Debug, Default)]
pub(super) struct ResponseTracker(Option<Tracked>);

/// A server moves each response several times, and this moves with it, so it is kept small: glibc
/// takes about twice the instructions for a copy of more than 256 bytes.
struct Tracked {
    state: RequestScope,
    body: BodyState,
    /// Counts the response as open.
    open: Option<TaskTrackerToken>,
    /// Ends the response if the body is dropped before the head is sent.
    head_guard: Option<HeadGuardLink<UnsentHead>>,
    /// Follows the response to the socket, on a tracked connection.
    delivery: Option<Followed>,
}

/// Code of the service or of the body runs. If this is dropped before the code has
/// [`returned`](Self::returned), the code has panicked.
pub(super) struct UserCode<'a> {
    body: Option<&'a BodyState>,
    _entered: Option<Entered<'a>>,
}

impl UserCode<'_> {
    /// The code has returned.
    #[inline]
    pub(super) fn returned(mut self) {
        self.body = None;
    }
}

impl Drop for UserCode<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(body) = self.body {
            body.note_panic();
        }
    }
}

impl ResponseTracker {
    /// Returns an empty tracker.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Gives the request a registry, and tracks its response.
    ///
    /// Returns an empty tracker if the request has an open registry of the same supervisor. A layer
    /// farther out tracks it.
    pub(super) fn open<B>(supervisor: &Supervisor, request: &mut Request<B>) -> Self {
        let outer = match request.extensions().get::<BackgroundTasks>() {
            None => None,
            Some(found) if found.state().find_open(supervisor).is_some() => return Self::none(),
            Some(found) => open_outer(found.state(), supervisor, request.uri()),
        };
        let open = supervisor.open_response();
        let started = Instant::now();
        let state = RequestState::open(supervisor, open.is_some(), request, started, outer);
        let delivery = follow(request.extensions());
        request
            .extensions_mut()
            .insert(BackgroundTasks::new(Arc::clone(&state)));
        Self(Some(Tracked {
            state: state.into(),
            body: BodyState::default(),
            open,
            head_guard: None,
            delivery,
        }))
    }

    /// Enters code of the service or of the body, as code of the request.
    #[inline]
    pub(super) fn enter(&mut self) -> UserCode<'_> {
        let Some(Tracked { state, body, .. }) = &mut self.0 else {
            return UserCode {
                body: None,
                _entered: None,
            };
        };
        UserCode {
            body: Some(body),
            _entered: Some(state.enter()),
        }
    }

    /// Calls code of the body that returns at once.
    pub(super) fn observe<R>(&self, user_code: impl FnOnce() -> R) -> R {
        let body = self.0.as_ref().map(|tracked| &tracked.body);
        let entered = UserCode {
            body,
            _entered: None,
        };
        let result = user_code();
        entered.returned();
        result
    }

    /// Notes that the body said that it is at its end, when the server asked.
    pub(super) fn note_tells_end(&self) {
        if let Some(tracked) = &self.0 {
            tracked.body.note_tells_end();
        }
    }

    /// Notes the head of the response, and what its body says of itself.
    pub(super) fn note_head<B>(
        &mut self,
        response: &mut Response<B>,
        exact_size: Option<u64>,
        at_end: bool,
    ) {
        if let Some(tracked) = &mut self.0 {
            tracked.note_head(response, exact_size, at_end);
        }
    }

    /// Ends the response, because the service returned an error.
    pub(super) fn service_failed(mut self) {
        if let Some(tracked) = &mut self.0 {
            tracked.body.set_kind(EndKind::ServiceError);
        }
    }

    /// Returns whether the body has returned `None`, or a layer farther out tracks the response.
    #[inline]
    pub(super) const fn is_over(&self) -> bool {
        match &self.0 {
            Some(tracked) => tracked.body.is_over(),
            None => true,
        }
    }

    /// Notes that the body has no frame yet.
    #[inline]
    pub(super) fn note_poll(&mut self) {
        if let Some(tracked) = &mut self.0 {
            tracked.body.note_poll();
        }
    }

    /// Notes a frame, and whether the body is at its end after it.
    pub(super) fn note_frame<D: Buf + 'static>(&mut self, frame: &mut Frame<D>, at_end: bool) {
        if let Some(tracked) = &mut self.0 {
            tracked.note_frame(frame, at_end);
        }
    }

    /// Notes that the body failed.
    #[inline]
    pub(super) fn note_error(&mut self) {
        if let Some(tracked) = &mut self.0 {
            tracked.body.note_error();
        }
    }

    /// Notes that the body returned `None`. This ends the response, unless its tasks wait for the
    /// last byte.
    #[inline]
    pub(super) fn note_end(&mut self) {
        let Some(tracked) = &mut self.0 else { return };
        tracked.body.note_end();
        if !tracked.state.waits_for_last_byte() {
            tracked.head_guard = None;
            *self = Self::none();
        }
    }
}

impl Drop for ResponseTracker {
    fn drop(&mut self) {
        let Some(tracked) = &mut self.0 else { return };
        if tracked.delivery.is_none() && tracked.state.waits_for_last_byte() {
            tracked.state.warn_of_untracked();
        }
        if !tracked.is_watched() {
            return;
        }
        tracked.body.note_drop();
        if tracked.head_guard.is_none() && tracked.delivery.is_none() {
            tracked.end();
        } else if let Some(tracked) = self.0.take() {
            tracked.end_or_hand_over();
        }
    }
}

impl Tracked {
    fn note_head<B>(&mut self, response: &mut Response<B>, exact_size: Option<u64>, at_end: bool) {
        let now = Instant::now();
        let head = self.body.note_head(response, now, exact_size, at_end);
        self.state.note_head(head);
        if self.is_head_request() || self.body.has_grpc_status() || self.state.waits_for_last_byte()
        {
            if let Some(guard) = self.follow_head() {
                response.extensions_mut().insert(guard);
            }
        }
    }

    /// Follows a head that may be the last frame, or that may be sent after the body is dropped.
    fn follow_head(&mut self) -> Option<HeadGuard<UnsentHead>> {
        if let Some(delivery) = self.delivery() {
            delivery.head();
        }
        let is_untracked = self.state.waits_for_last_byte() && self.delivery.is_none();
        // A layer farther out may replace the body of an answer to `HEAD`, so that only the head is
        // sent.
        let may_lose_body = self.is_head_request() || self.body.has_grpc_status() || is_untracked;
        if !may_lose_body || !self.is_watched() {
            return None;
        }
        let (guard, link) = HeadGuard::new();
        self.head_guard = Some(link);
        Some(guard)
    }

    #[inline]
    fn is_head_request(&self) -> bool {
        self.state.head().method == Method::HEAD
    }

    /// Returns what follows the response to the socket, if its tasks wait for that.
    fn delivery(&mut self) -> Option<&mut Followed> {
        let delivery = self.delivery.as_mut()?;
        if self.state.waits_for_last_byte() {
            Some(delivery)
        } else {
            None
        }
    }

    fn note_frame<D: Buf + 'static>(&mut self, frame: &mut Frame<D>, at_end: bool) {
        let before = self.body.bytes();
        if let Some(data) = frame.data_mut() {
            let length = data.remaining();
            self.body.note_data(length, at_end);
            self.state.note_bytes(self.body.bytes());
            if let Some(delivery) = self.delivery() {
                delivery.data(
                    (data as &mut dyn Any).downcast_mut(),
                    length,
                    at_end,
                    before,
                );
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            let keep = self.is_watched();
            self.body.note_trailers(trailers, keep);
            if let Some(delivery) = self.delivery() {
                delivery.trailers(before);
            }
        } else {
            self.body.note_poll();
        }
    }

    /// Returns whether anybody can ask how the response ends.
    fn is_watched(&mut self) -> bool {
        Arc::get_mut(&mut self.state).is_none_or(RequestState::is_watched)
    }

    /// Ends the response.
    fn end(&mut self) {
        self.state
            .finish(std::mem::take(&mut self.body), None, Instant::now());
    }

    /// Ends the response, or leaves that to what is dropped later.
    fn end_or_hand_over(mut self) {
        if let Some(head_guard) = self.head_guard.take() {
            return head_guard.give(UnsentHead(Some(self)));
        }
        let waits_for_last_byte = self.state.waits_for_last_byte();
        let delivery = self.delivery.take().filter(|_| waits_for_last_byte);
        let Some(delivery) = delivery else {
            return self.end();
        };
        let response = EndedResponse::new(self.state, self.body, self.open);
        delivery.wait(response);
    }
}

/// A response whose body is dropped, and whose head is not sent. Its drop ends the response.
#[derive(Debug)]
struct UnsentHead(Option<Tracked>);

impl Drop for UnsentHead {
    fn drop(&mut self) {
        if let Some(tracked) = self.0.take() {
            tracked.end_or_hand_over();
        }
    }
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// Returns the registry that another one replaces, if its response is open.
#[cold]
fn open_outer<'a>(
    found: &'a Arc<RequestState>,
    supervisor: &Supervisor,
    uri: &Uri,
) -> Option<&'a Arc<RequestState>> {
    if found.has_ended() {
        return None;
    }
    supervisor.warn_of_two_supervisors(uri.path());
    Some(found)
}
