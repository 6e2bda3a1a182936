//! The right to end a response, which exists once per request and is used up by ending it.
//!
//! A [`Lease`] is opened with the request and moves along with what is responsible for the response: the response future,
//! then the body, at times the head's marker. Its drop ends the response, so a response ends exactly once, whoever drops it
//! and for whatever reason. Nothing else ends one.

use bytes::Buf;
use http::{Method, Request, Response};
use http_body::{Body, Frame};

use crate::{
    current::{Entered, Scope},
    end::End,
    marker::{HeadMarker, MarkerLink},
    progress::{Progress, Verdict},
    supervisor::Supervisor,
    tail::Tail,
    tasks::BackgroundTasks,
};

/// See the module's documentation. It moves with the response, so it is kept small.
#[derive(Debug)]
pub(crate) struct Lease {
    scope: Scope,
    progress: Progress,
    /// Whether the body has returned `None`, and this waits for its drop.
    over: bool,
    aside: Option<Box<Aside>>,
}

/// What few responses need.
#[derive(Debug, Default)]
struct Aside {
    /// Where the lease goes, instead of ending the response, when the body is dropped before the head was sent.
    marker: Option<MarkerLink>,
    /// How the response ends, where that is settled before the lease is dropped.
    verdict: Option<Verdict>,
    /// What becomes of the response behind the server, where that is known.
    tail: Option<Tail>,
}

/// Runs the code of the service or the body with the request's registry as the current one.
pub(crate) struct UserCode<'a> {
    progress: &'a mut Progress,
    _entered: Entered<'a>,
}

impl UserCode<'_> {
    /// The code has returned. Where this is not called, it has panicked.
    #[inline]
    pub(crate) fn returned(self) {
        self.progress.after_user_code();
    }
}

impl Lease {
    /// Gives the request a registry. Nothing if it has an open one of the same supervisor: the layer that opened that one is
    /// farther out, and ends the response.
    #[inline]
    pub(crate) fn open<B>(supervisor: &Supervisor, request: &mut Request<B>) -> Option<Self> {
        let found = request.extensions().get::<BackgroundTasks>();
        if found.and_then(|found| found.of(supervisor)).is_some_and(|joined| !joined.exchange().is_over()) {
            return None;
        }
        let tasks = BackgroundTasks::open(supervisor, request, found.cloned());
        let aside = Tail::open(request).map(|tail| Box::new(Aside { tail: Some(tail), ..Aside::default() }));
        request.extensions_mut().insert(tasks.clone());
        Some(Self { scope: Scope::new(tasks), progress: Progress::default(), over: false, aside })
    }

    /// Enters the service's or the body's code.
    #[inline]
    pub(crate) fn enter(&mut self) -> UserCode<'_> {
        self.progress.before_user_code();
        UserCode { progress: &mut self.progress, _entered: self.scope.enter() }
    }

    /// Notes the head of the response.
    pub(crate) fn head<B: Body>(&mut self, response: &mut Response<B>) {
        let Some(tasks) = self.scope.tasks() else { return };
        let (head, grpc_status) = self.progress.head(tasks.exchange(), response);
        tasks.note_head(head, grpc_status);
        let to_head = tasks.exchange().method == Method::HEAD;
        // A body to `HEAD` may be replaced farther out, so that nothing but the head is sent.
        let head_is_last = self.progress.has_ended() || to_head;
        let is_held = self.tail().is_some_and(|tail| {
            tail.head(response.headers_mut(), head_is_last);
            tail.is_held()
        });
        let Some(tasks) = self.scope.tasks() else { return };
        // A layer farther out may have all of a body before the head is sent.
        let may_lose_body = grpc_status.is_some() || to_head || (tasks.wait_for_sent() && !is_held);
        if may_lose_body && tasks.is_watched() {
            let (marker, link) = HeadMarker::new();
            response.extensions_mut().insert(marker);
            self.aside.get_or_insert_default().marker = Some(link);
        }
    }

    /// What follows the response to the socket, where its tasks wait for that.
    fn tail(&mut self) -> Option<&mut Tail> {
        let tail = self.aside.as_mut()?.tail.as_mut()?;
        self.scope.tasks().is_some_and(BackgroundTasks::wait_for_sent).then_some(tail)
    }

    /// Notes a frame of the body, and whether the body is at its end now. Returns it such that its way to the socket can be
    /// followed.
    pub(crate) fn frame<D: Buf + 'static>(&mut self, frame: Frame<D>, at_end: bool) -> Frame<D> {
        let Some(tasks) = self.scope.tasks() else { return frame };
        let before = self.progress.bytes();
        self.progress.frame(&frame, at_end, || tasks.is_watched());
        tasks.note_bytes(self.progress.bytes());
        let last = at_end || frame.is_trailers();
        match self.tail() {
            Some(tail) => tail.frame(frame, last, before),
            None => frame,
        }
    }

    /// Notes that the body has nothing yet.
    pub(crate) const fn pending(&mut self) {
        self.progress.pending();
    }

    /// Notes that the body failed.
    pub(crate) const fn failed(&mut self) {
        self.progress.failed();
    }

    /// Notes that the body returned `None`. Returns whether that ends the response; otherwise its drop does, and an empty
    /// frame may go out that can be followed.
    pub(crate) fn ended<D: 'static>(&mut self) -> (bool, Option<Frame<D>>) {
        self.progress.ended();
        if !self.scope.tasks().is_some_and(BackgroundTasks::wait_for_sent) {
            if let Some(aside) = &mut self.aside {
                aside.marker = None;
            }
            return (true, None);
        }
        self.over = true;
        (false, self.tail().and_then(Tail::end_frame))
    }

    /// Whether the body has returned `None`: nothing that it does counts any more.
    pub(crate) const fn is_over(&self) -> bool {
        self.over
    }

    /// Notes that the body is asked for more, or whether there is more.
    pub(crate) fn asked(&self) {
        self.aside.iter().filter_map(|aside| aside.tail.as_ref()).for_each(Tail::asked);
    }

    /// Whether an end was told by a frame of this crate's own, in place of the `None` that comes after it.
    pub(crate) fn owes_none(&mut self) -> bool {
        self.aside.as_mut().and_then(|aside| aside.tail.as_mut()).is_some_and(Tail::owes_none)
    }

    /// As above, without settling it.
    pub(crate) fn at_end(&self) -> bool {
        self.aside.as_ref().and_then(|aside| aside.tail.as_ref()).is_some_and(Tail::at_end)
    }

    /// Ends the response, as the service returned an error.
    pub(crate) fn service_failed(mut self) {
        self.aside.get_or_insert_default().verdict = Some((End::ServiceError, None));
    }

    /// Makes the registry the current one while what this lease stands beside is dropped.
    pub(crate) fn enter_until_drop(&mut self) {
        self.scope.enter_until_drop();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(tasks) = self.scope.take() else { return };
        let Some(mut aside) = self.aside.take() else {
            return tasks.end(&mut self.progress, None);
        };
        if let Some(marker) = aside.marker.take() {
            let progress = std::mem::take(&mut self.progress);
            aside.verdict = Some(aside.verdict.unwrap_or_else(|| progress.verdict()));
            return marker.hand_over(Self { scope: Scope::new(tasks), progress, over: self.over, aside: Some(aside) });
        }
        match aside.tail.take() {
            Some(tail) if tasks.wait_for_sent() => {
                let progress = std::mem::take(&mut self.progress);
                let verdict = aside.verdict.unwrap_or_else(|| progress.verdict());
                tail.wait(tasks, verdict, progress);
            }
            _ => tasks.end(&mut self.progress, aside.verdict),
        }
    }
}
