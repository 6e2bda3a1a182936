//! [`RequestState`]: the tasks of one request, and whether they may run.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, Weak, atomic::Ordering},
};

use http::{HeaderMap, Request};
use tokio::{runtime::Handle, task::AbortHandle, time::Instant};

use super::queued::Queued;
use crate::{
    response::{
        BodyState, EndDetails, RequestHead, RequestInfo, ResponseEnd, ResponseHead, request_id,
    },
    supervisor::{RequestReporter, Supervisor, TaskGuard},
    task::{Order, Outcome, StartOn},
    util::{
        Text,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU64},
            lock,
        },
        trace::ids_are_wanted,
    },
};

/// The tasks of one request, or of one [`Supervisor::spawn`].
pub(crate) struct RequestState {
    pub(super) supervisor: Supervisor,
    /// `None` for a task without a request.
    pub(super) head: Option<RequestHead>,
    /// Whether the request came before the supervisor was shut down.
    pub(super) admitted: bool,
    /// The registry that this one has replaced in the extensions of the request. It belongs to
    /// another supervisor.
    outer: Option<Weak<Self>>,
    /// How much data the body has yielded.
    bytes: AtomicU64,
    /// Whether the tasks wait for the last byte. It is read for each frame, so it is not under the
    /// lock.
    waits_for_last_byte: AtomicBool,
    /// Whether the service has returned a response. Most tasks ask for it, so it is not under the
    /// lock. `true` for a task without a request.
    has_responded: AtomicBool,
    inner: Mutex<Inner>,
}

/// The part of a [`RequestState`] that changes.
pub(super) struct Inner {
    /// The `x-request-id` of the request, if somebody may want it.
    request_id: Option<Box<Text>>,
    /// The head of the response, once there is one.
    pub(super) head: Option<ResponseHead>,
    /// What is known of the end of the response, once it has ended.
    ended: Option<Ended>,
    /// Whether the tasks have started. A task that is added after that starts at once.
    pub(super) has_started: bool,
    /// Tasks that wait for the start.
    pub(super) deferred: Vec<Queued>,
    pub(super) order: Order,
    /// Where the tasks run.
    pub(super) runtime: Option<Handle>,
    pub(super) rare: Option<Box<Rare>>,
}

/// The end of a response.
struct Ended {
    body: BodyState,
    /// How many bytes of the data the socket took, if that is known.
    bytes_sent: Option<u64>,
    at: Instant,
    /// How the response ended, for those who ask. Most tasks never do.
    shared: Option<Arc<ResponseEnd>>,
}

/// What few requests have. The code for it is apart too, in functions marked `cold`, because a
/// server runs more code for a request than its cache of instructions holds.
#[derive(Default)]
pub(super) struct Rare {
    /// What was known of the end of the response, if tasks started early.
    early_end: Option<Arc<ResponseEnd>>,
    /// Starts the tasks when `start_within` is over.
    pub(super) timer: Option<AbortHandle>,
    /// Reports to observers.
    reporter: Option<Arc<RequestReporter>>,
    sequence: SequenceState,
}

/// The tasks of a request that run one after the other.
#[derive(Default)]
pub(super) struct SequenceState {
    /// Tasks that wait for their turn.
    pub(super) waiting: VecDeque<Queued>,
    /// Whether a driver runs the tasks.
    pub(super) has_driver: bool,
    /// Whether a task has failed.
    pub(super) has_failed: bool,
}

impl RequestState {
    /// Creates the registry of a request that just arrived.
    pub(crate) fn open<B>(
        supervisor: &Supervisor,
        admitted: bool,
        request: &Request<B>,
        started: Instant,
        outer: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let id = if ids_are_wanted() {
            request_id(request.headers())
        } else {
            None
        };
        let head = RequestHead::new(request, started);
        let order = supervisor.config().order;
        let outer = outer.map(Arc::downgrade);
        Self::new(supervisor, admitted, Some(head), id, order, outer)
    }

    /// Creates the registry of a task without a request.
    pub(super) fn without_request(supervisor: &Supervisor) -> Arc<Self> {
        let state = Self::new(supervisor, true, None, None, Order::Concurrent, None);
        state.lock().has_started = true;
        state
    }

    #[inline]
    fn new(
        supervisor: &Supervisor,
        admitted: bool,
        head: Option<RequestHead>,
        request_id: Option<Box<Text>>,
        order: Order,
        outer: Option<Weak<Self>>,
    ) -> Arc<Self> {
        let config = supervisor.config();
        let has_responded = head.is_none();
        Arc::new(Self {
            supervisor: supervisor.clone(),
            head,
            admitted,
            outer,
            bytes: AtomicU64::new(0),
            waits_for_last_byte: AtomicBool::new(config.start_on.is_last_byte()),
            has_responded: AtomicBool::new(has_responded),
            inner: Mutex::new(Inner {
                request_id,
                head: None,
                ended: None,
                has_started: false,
                deferred: Vec::new(),
                order,
                runtime: None,
                rare: None,
            }),
        })
    }

    pub(super) const fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Returns this registry, or one that it has replaced, if it belongs to the supervisor and its
    /// response is open.
    #[cold]
    pub(crate) fn find_open(self: &Arc<Self>, supervisor: &Supervisor) -> Option<Arc<Self>> {
        let mut state = Arc::clone(self);
        while state.supervisor != *supervisor {
            state = state.outer.as_ref()?.upgrade()?;
        }
        (!state.has_ended()).then_some(state)
    }

    /// Returns whether this registry, or one that it has replaced, belongs to the supervisor.
    pub(crate) fn belongs_to(self: &Arc<Self>, supervisor: &Supervisor) -> bool {
        self.supervisor == *supervisor
            || self
                .outer
                .as_ref()
                .and_then(Weak::upgrade)
                .is_some_and(|outer| outer.belongs_to(supervisor))
    }

    /// Returns whether tasks wait for the end of the response, or observers do.
    pub(crate) fn is_watched(&mut self) -> bool {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        !self.supervisor.observers().is_empty() || inner.waiting().next().is_some()
    }

    /// Notes how much data the body has yielded.
    #[inline]
    pub(crate) fn note_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Returns whether the response has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Returns whether the service has returned a response. `true` for a task without a request.
    #[inline]
    pub(super) fn has_responded(&self) -> bool {
        self.has_responded.load(Ordering::Acquire)
    }

    /// Notes that the service has returned a response.
    #[inline]
    pub(super) fn note_responded(&self) {
        self.has_responded.store(true, Ordering::Release);
    }

    /// Returns how the response ended, once it has.
    pub(super) fn shared_end(&self) -> Option<Arc<ResponseEnd>> {
        self.shared_end_in(&mut self.lock())
    }

    /// Returns the same as [`shared_end`](Self::shared_end), under the lock.
    pub(super) fn shared_end_in(&self, inner: &mut Inner) -> Option<Arc<ResponseEnd>> {
        let ended = inner.ended.as_mut()?;
        let end = ended.shared.get_or_insert_with(|| {
            let head = self.head();
            let request = RequestInfo::new(head, inner.request_id.clone());
            let (sent, at) = (ended.bytes_sent, ended.at);
            let details = ended.body.details(&head.method, head.version, sent, at);
            Arc::new(ResponseEnd::new(request, details))
        });
        Some(Arc::clone(end))
    }

    /// Returns whether the tasks wait for the last byte.
    #[inline]
    pub(crate) fn waits_for_last_byte(&self) -> bool {
        self.waits_for_last_byte.load(Ordering::Relaxed)
    }

    /// Chooses when the tasks start. Returns whether it was in time. A response whose head has passed
    /// can not be followed to its last byte any more.
    pub(super) fn set_start_on(&self, start_on: StartOn) -> bool {
        let inner = self.lock();
        let is_last_byte = start_on.is_last_byte();
        let is_late = inner.has_started || (is_last_byte && self.has_responded());
        if !is_late {
            self.waits_for_last_byte
                .store(is_last_byte, Ordering::Relaxed);
        }
        !is_late
    }

    /// Chooses the order of the tasks. Returns whether it was in time.
    pub(super) fn set_order(&self, order: Order) -> bool {
        let mut inner = self.lock();
        if !inner.has_started {
            inner.order = order;
        }
        !inner.has_started
    }

    /// Notes the request id that a middleware has set after the request was opened.
    pub(super) fn note_request_id(&self, headers: &HeaderMap) {
        if ids_are_wanted() && !headers.is_empty() {
            let mut inner = self.lock();
            if inner.request_id.is_none() {
                inner.request_id = request_id(headers);
            }
        }
    }

    /// Returns the path of the request. It is empty for a task without a request.
    pub(super) fn path(&self) -> &str {
        self.head.as_ref().map_or("", |head| &head.path)
    }

    /// Warns that tasks wait for the last byte, and that nothing tells when it is sent.
    pub(crate) fn warn_of_untracked(&self) {
        self.supervisor.warn_of_untracked(self.path());
    }

    /// Returns the first line of the request. Only a response asks, so there is a request.
    #[inline]
    pub(crate) const fn head(&self) -> &RequestHead {
        self.head.as_ref().expect("a response has a request")
    }

    /// Returns what is kept of the request. `None` for tasks without a request.
    pub(super) fn request(&self) -> Option<RequestInfo> {
        let head = self.head.as_ref()?;
        Some(RequestInfo::new(head, self.lock().request_id.clone()))
    }

    pub(super) const fn has_request(&self) -> bool {
        self.head.is_some()
    }

    /// Returns how the response ended, or what is known of the end while it is open.
    ///
    /// Tasks can start early although the response has ended: while observers are told of the end.
    pub(super) fn end_so_far(&self, inner: &mut Inner) -> Option<Arc<ResponseEnd>> {
        if inner.has_ended() {
            return self.shared_end_in(inner);
        }
        let request = RequestInfo::new(self.head.as_ref()?, inner.request_id.clone());
        let bytes = self.bytes.load(Ordering::Relaxed);
        let details = EndDetails::unfinished(inner.head, bytes, Instant::now());
        Some(Arc::new(ResponseEnd::new(request, details)))
    }

    /// Returns when `start_within` starts the tasks, if it is set and there is a head.
    pub(super) fn start_deadline(&self, inner: &Inner) -> Option<Instant> {
        let within = self.supervisor.config().start_within?;
        inner.head?.at.checked_add(within)
    }

    /// Takes the tasks that wait and fulfil a condition.
    pub(super) fn take_queued(&self, condition: impl Fn(&Queued) -> bool) -> Vec<Queued> {
        self.lock().take_queued(condition)
    }

    /// Takes back the tasks of this name that do not run yet. Returns how many there were.
    pub(super) fn remove(&self, name: &str) -> usize {
        let mut inner = self.lock();
        let waiting = inner.take_queued(|queued| queued.task.name() == Some(name));
        // Tasks that have started, and wait for a permit, are in the table alone.
        let has_started = inner.has_started;
        drop(inner);
        let removed = waiting.len();
        for queued in waiting {
            queued.finish(Outcome::Removed);
        }
        if has_started {
            removed + self.supervisor.remove_queued(self, name)
        } else {
            removed
        }
    }

    pub(super) fn names(&self) -> Vec<Option<String>> {
        self.lock()
            .waiting()
            .map(|queued| queued.task.name().map(str::to_owned))
            .collect()
    }

    /// Connects a task to the observers, and to what was known of the end if tasks started early.
    #[inline]
    pub(super) fn connect(&self, inner: &mut Inner, guard: &mut TaskGuard) {
        if inner.rare.is_some() || !self.supervisor.observers().is_empty() {
            self.connect_rare(inner, guard);
        }
    }

    #[cold]
    fn connect_rare(&self, inner: &mut Inner, guard: &mut TaskGuard) {
        let observers = self.supervisor.observers();
        let (has_started, end) = (inner.has_started, self.shared_end_in(inner));
        let Rare {
            early_end,
            reporter,
            ..
        } = &mut **inner.rare.get_or_insert_default();
        if let Some(end) = early_end.as_ref().filter(|_| end.is_none()) {
            guard.set_early_end(Arc::clone(end));
        }
        if observers.is_empty() {
            return;
        }
        let reporter = reporter.get_or_insert_with(|| {
            let reporter = Arc::<RequestReporter>::default();
            if has_started {
                // No task is counted yet, so there is nothing to report.
                reporter.start(end, observers);
            }
            reporter
        });
        guard.set_reporter(Arc::clone(reporter));
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    /// The response ends.
    #[inline]
    pub(super) fn end(&mut self, body: BodyState, bytes_sent: Option<u64>, at: Instant) {
        self.ended = Some(Ended {
            body,
            bytes_sent,
            at,
            shared: None,
        });
    }

    /// Returns whether the response has ended.
    #[inline]
    pub(super) const fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The tasks start. `early_end` is what they know of the end of the response, if they start
    /// early. Returns the reporter, if there are observers and the request has left tasks.
    #[inline]
    pub(super) fn note_start(
        &mut self,
        early_end: Option<&Arc<ResponseEnd>>,
    ) -> Option<Arc<RequestReporter>> {
        self.has_started = true;
        if early_end.is_some() || self.rare.is_some() {
            self.note_start_rare(early_end)
        } else {
            None
        }
    }

    #[cold]
    fn note_start_rare(
        &mut self,
        early_end: Option<&Arc<ResponseEnd>>,
    ) -> Option<Arc<RequestReporter>> {
        let rare = self.rare.get_or_insert_default();
        rare.early_end = early_end.cloned();
        if let Some(timer) = rare.timer.take() {
            timer.abort();
        }
        rare.reporter.clone()
    }

    /// Returns the tasks that wait: for the start, or for their turn in a sequence.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Queued> {
        let sequence = self.rare.iter().flat_map(|rare| &rare.sequence.waiting);
        self.deferred.iter().chain(sequence)
    }

    /// Takes the tasks that wait and fulfil a condition.
    pub(super) fn take_queued(&mut self, condition: impl Fn(&Queued) -> bool) -> Vec<Queued> {
        let (mut taken, kept): (Vec<_>, _) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(&condition);
        self.deferred = kept;
        if let Some(rare) = &mut self.rare {
            let waiting = &mut rare.sequence.waiting;
            let (of_sequence, kept): (Vec<_>, Vec<_>) =
                std::mem::take(waiting).into_iter().partition(condition);
            *waiting = kept.into();
            taken.extend(of_sequence);
        }
        taken
    }

    /// Returns the tasks that run one after the other. Requests with another order have none.
    #[cold]
    pub(super) fn sequence(&mut self) -> &mut SequenceState {
        &mut self.rare.get_or_insert_default().sequence
    }

    /// Notes the runtime for the tasks: the configured one, or the one that is current when the
    /// first task is added.
    #[inline]
    pub(super) fn note_runtime(&mut self, supervisor: &Supervisor) {
        if self.runtime.is_none() {
            self.find_runtime(supervisor);
        }
    }

    #[inline(never)]
    fn find_runtime(&mut self, supervisor: &Supervisor) {
        let configured = supervisor.config().runtime.clone();
        self.runtime = configured.or_else(|| Handle::try_current().ok());
    }

    /// Returns the runtime for the tasks.
    #[inline]
    pub(super) fn runtime(&mut self, supervisor: &Supervisor) -> Option<Handle> {
        self.note_runtime(supervisor);
        self.runtime.clone()
    }
}
