//! The right to end a response, which exists once per request and is used up by ending it.
//!
//! A [`Lease`] is opened with the request and moves along with what is responsible for the response: the response future,
//! then the body, at times the head's marker. Its drop ends the response, so a response ends exactly once, whoever drops it
//! and for whatever reason. Nothing else ends one.

use bytes::Buf;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use tokio::time::Instant;

use crate::{
    current::{Entered, Scope},
    end::End,
    exchange::Head,
    marker::{HeadMarker, MarkerLink},
    progress::{Progress, Verdict, protocol},
    spare,
    supervisor::Supervisor,
    tail::Tail,
    tasks::BackgroundTasks,
};

/// See the module's documentation. There is none where a layer farther out has it. It moves with the response, so it is small.
#[derive(Debug, Default)]
pub(crate) struct Lease(Option<Box<Open>>);

/// What is known of an open response by who has the lease.
#[derive(Debug, Default)]
pub(crate) struct Open {
    scope: Scope,
    progress: Progress,
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
    /// Whether the body has returned `None`, and this waits for its drop.
    over: bool,
}

/// Runs the code of the service or the body with the request's registry as the current one.
pub(crate) struct UserCode<'a> {
    progress: &'a mut Progress,
    returned: bool,
    _entered: Entered<'a>,
}

impl UserCode<'_> {
    /// The code has returned. Where this is not called, it has panicked.
    #[inline]
    pub(crate) fn returned(mut self) {
        self.returned = true;
    }
}

impl Drop for UserCode<'_> {
    #[inline]
    fn drop(&mut self) {
        self.progress.ran(!self.returned);
    }
}

impl Lease {
    /// None: what it stands beside is of no request, or of one whose end a layer farther out sees.
    #[inline]
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Gives the request a registry. Nothing if it has an open one of the same supervisor: the layer that opened that one is
    /// farther out, and ends the response.
    #[inline]
    pub(crate) fn open<B>(supervisor: &Supervisor, request: &mut Request<B>) -> Self {
        let found = request.extensions().get::<BackgroundTasks>();
        if found.and_then(|found| found.of(supervisor)).is_some_and(|joined| !joined.exchange().is_over()) {
            return Self::none();
        }
        let mut open = spare::take().unwrap_or_default();
        let tasks = open.scope.serve(|tasks| tasks.serve(supervisor, request, found)).clone();
        if let Some(tail) = Tail::open(request) {
            open.aside.get_or_insert_default().tail = Some(tail);
        }
        request.extensions_mut().insert(tasks);
        Self(Some(open))
    }

    /// The response, if this is the lease of one.
    #[inline]
    pub(crate) fn get(&self) -> Option<&Open> {
        self.0.as_deref()
    }

    /// The same, to be told of what is seen.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut Open> {
        self.0.as_deref_mut()
    }

    /// Ends the response after the `None` of its body, unless its drop is to end it.
    #[inline]
    pub(crate) fn body_ended(&mut self) {
        if !self.get().is_some_and(Open::is_over) {
            *self = Self::none();
        }
    }

    /// Ends the response, as the service returned an error.
    pub(crate) fn service_failed(mut self) {
        if let Some(open) = self.get_mut() {
            open.aside.get_or_insert_default().verdict = Some((End::ServiceError, None));
        }
    }

    /// Makes the registry the current one while what this lease stands beside is dropped.
    #[inline]
    pub(crate) fn enter_until_drop(&mut self) {
        if let Some(open) = self.get_mut() {
            open.scope.enter_until_drop();
        }
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.end();
        }
    }
}

impl Open {
    /// Enters the service's or the body's code.
    #[inline]
    pub(crate) fn enter(&mut self) -> UserCode<'_> {
        UserCode { progress: &mut self.progress, returned: false, _entered: self.scope.enter() }
    }

    /// Notes the head of the response, and what its body says of itself: its exact size, and whether it is at its end already.
    /// Returns whether there is more to note than that.
    #[inline]
    pub(crate) fn head(&mut self, status: StatusCode, version: Version, body: (Option<u64>, bool)) -> bool {
        let Some(tasks) = self.scope.tasks() else { return false };
        let exchange = tasks.exchange();
        let version = protocol(exchange.version, version);
        self.progress.head(Head { status, version, at: Instant::now() }, body);
        body.1 || exchange.method == Method::HEAD || tasks.wait_for_sent() || exchange.is_early_release_expected()
    }

    /// Notes what is left to be noted of a head.
    #[inline(never)]
    pub(crate) fn rest_of_head<B>(&mut self, response: &mut Response<B>) {
        if let Some(marker) = self.note_headers(response.headers_mut()) {
            response.extensions_mut().insert(marker);
        }
    }

    /// Returns what goes into the extensions of the response.
    fn note_headers(&mut self, headers: &mut HeaderMap) -> Option<HeadMarker> {
        let grpc_status = self.progress.headers(headers);
        let tasks = self.scope.tasks()?;
        if let Some(head) = self.progress.noted_head() {
            tasks.note_head(head, grpc_status);
        }
        let is_head = tasks.exchange().method == Method::HEAD;
        let is_followed = grpc_status.is_some() || is_head || tasks.wait_for_sent();
        if is_followed { self.follow_head(is_head, grpc_status.is_some(), headers) } else { None }
    }

    /// Looks after a body that may be dropped, or replaced, before the head is sent, and after a head that may be the last.
    #[inline(never)]
    fn follow_head(&mut self, is_head: bool, has_grpc_status: bool, headers: &mut HeaderMap) -> Option<HeadMarker> {
        // A body to `HEAD` may be replaced farther out, so that nothing but the head is sent.
        let head_is_last = self.progress.has_ended() || is_head;
        let kept = self.tail().is_some_and(|tail| {
            tail.head(headers, head_is_last);
            tail.is_held()
        });
        let tasks = self.scope.tasks()?;
        // A layer farther out may have all of a body before the head is sent.
        let may_lose_body = has_grpc_status || is_head || (tasks.wait_for_sent() && !kept);
        if !may_lose_body || !tasks.is_watched() {
            return None;
        }
        let (marker, link) = HeadMarker::new();
        self.aside.get_or_insert_default().marker = Some(link);
        Some(marker)
    }

    /// What follows the response to the socket, where its tasks wait for that.
    #[inline]
    fn tail(&mut self) -> Option<&mut Tail> {
        let tail = self.aside.as_mut()?.tail.as_mut()?;
        self.scope.tasks().is_some_and(BackgroundTasks::wait_for_sent).then_some(tail)
    }

    /// Notes so many bytes of data of the body, and whether the body is at its end now.
    #[inline]
    pub(crate) fn data(&mut self, bytes: usize, at_end: bool) {
        self.progress.data(bytes, at_end);
        if let Some(tasks) = self.scope.tasks() {
            tasks.note_bytes(self.progress.bytes(), || self.progress.noted_head());
        }
    }

    /// Notes a frame that is no data.
    #[inline(never)]
    pub(crate) fn other<D>(&mut self, frame: Frame<D>) -> Frame<D> {
        if let Some(trailers) = frame.trailers_ref() {
            let keep = self.scope.tasks().is_some_and(BackgroundTasks::is_watched);
            self.progress.trailers(trailers, keep);
        } else {
            self.progress.frame();
        }
        frame
    }

    /// How many bytes the body has yielded.
    pub(crate) const fn bytes(&self) -> u64 {
        self.progress.bytes()
    }

    /// Whether somebody may want to know when the socket has the frames.
    #[inline]
    pub(crate) const fn is_followed(&self) -> bool {
        self.aside.is_some()
    }

    /// Makes a frame, before which so many bytes came, one whose way to the socket is followed, where it can be.
    pub(crate) fn follow<D: Buf + 'static>(&mut self, frame: Frame<D>, at_end: bool, before: u64) -> Frame<D> {
        let last = at_end || frame.is_trailers();
        match self.tail() {
            Some(tail) => tail.frame(frame, last, before),
            None => frame,
        }
    }

    /// Notes that the body has nothing yet.
    #[inline]
    pub(crate) const fn pending(&mut self) {
        self.progress.pending();
    }

    /// Notes that the body failed.
    #[inline]
    pub(crate) const fn failed(&mut self) {
        self.progress.failed();
    }

    /// Notes that the body returned `None`. That ends the response, or its drop does.
    #[inline]
    pub(crate) fn ended(&mut self) {
        self.progress.ended();
        if self.waits_for_sent() {
            self.aside.get_or_insert_default().over = true;
        } else if let Some(aside) = &mut self.aside {
            aside.marker = None;
        }
    }

    /// An empty frame that goes out in place of a `None`, and can be followed.
    pub(crate) fn end_frame<D: 'static>(&mut self) -> Option<Frame<D>> {
        if self.is_over() { self.tail().and_then(Tail::end_frame) } else { None }
    }

    /// Whether the body has returned `None`: nothing that it does counts any more.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| aside.over)
    }

    /// Notes that the body is asked for more, or whether there is more.
    #[inline]
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

    /// Leaves a registry that can serve another response.
    pub(crate) fn put_spare(&mut self, tasks: BackgroundTasks) {
        self.scope.put(tasks);
    }

    /// Ends the response. Only the drop of its lease does.
    fn end(mut self: Box<Self>) {
        self.scope.leave();
        let unwatched = self.aside.is_none() && self.scope.tasks_mut().is_some_and(BackgroundTasks::end_unwatched);
        let ended = if unwatched { Some(self) } else { self.end_watched() };
        if let Some(mut open) = ended {
            // The memory is left to another response.
            open.progress = Progress::default();
            spare::keep(open);
        }
    }

    /// Ends the response as somebody could see it, apart from what most responses come to. Nothing if it does not end yet.
    #[inline(never)]
    fn end_watched(mut self: Box<Self>) -> Option<Box<Self>> {
        let mut verdict = None;
        if let Some(mut aside) = self.aside.take() {
            verdict = aside.verdict;
            if let Some(marker) = aside.marker.take() {
                aside.verdict = verdict.or_else(|| Some(self.progress.verdict(self.scope.tasks()?.exchange())));
                self.aside = Some(aside);
                marker.hand_over(Lease(Some(self)));
                return None;
            }
            if let Some(tail) = aside.tail.take().filter(|_| self.waits_for_sent()) {
                let tasks = self.scope.take()?;
                let progress = std::mem::take(&mut self.progress);
                let verdict = verdict.unwrap_or_else(|| progress.verdict(tasks.exchange()));
                tail.wait(tasks, verdict, progress);
                return Some(self);
            }
        }
        let tasks = self.scope.take()?;
        if tasks.wait_for_sent() {
            tasks.supervisor().warn_untracked(tasks.exchange().path());
        }
        tasks.end(&mut self.progress, verdict);
        Some(self)
    }

    #[inline]
    fn waits_for_sent(&self) -> bool {
        self.scope.tasks().is_some_and(BackgroundTasks::wait_for_sent)
    }
}
