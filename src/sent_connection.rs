//! A tracked connection: what the wrapper of its IO tells, and who waits for that.

use std::{
    cell::Cell,
    fmt,
    sync::{Arc, PoisonError},
    task::{Context, Waker},
};

use http::Extensions;
use tokio::task::{Id, try_id};

use crate::{
    end::End,
    progress::{Progress, Verdict},
    sent_gauge::{Gauge, Mark},
    sent_guard::{Dropped, Guard, Hold},
    sent_waits::{Fate, Key, Known, Waits},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    tasks::BackgroundTasks,
};

/// What a server copies at most of the end of some data, and drops before it is written, in bytes; h2 does with less than this.
const COPIED: u64 = 1_024;

thread_local! {
    /// The connection whose IO was last used on this thread, and the task that used it: what that task drops, the server drops
    /// at work on this connection.
    static LAST: Cell<Option<(Id, SentConnection)>> = const { Cell::new(None) };
}

/// A handle of a tracked connection, by which its requests find it.
///
/// It is a layer for the service of the connection, and puts itself into the extensions of each request.
///
/// # Examples
///
/// ```
/// use tower::Layer;
/// use tower_background::{SentConnection, SentStream};
///
/// let (stream, _other_end) = tokio::io::duplex(1024);
/// let stream = SentStream::new(stream);
/// let service = stream.connection().layer("the service for this connection");
/// assert_eq!(service.get_ref(), &"the service for this connection");
/// ```
#[derive(Clone)]
pub struct SentConnection(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Whether a turn or a flush changes anything, so that most need no lock.
    waiting: AtomicBool,
    /// Whether the server works on what it has just read. What it drops then, it has not written.
    reading: AtomicBool,
    /// Whether there are guards of whose fate the next use of the IO tells.
    is_undecided: AtomicBool,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    waits: Waits<Ended>,
    undecided: Vec<Dropped>,
    /// The task that serves the connection.
    waker: Option<Waker>,
}

/// A response that the server has dropped.
pub(crate) struct Ended {
    pub(crate) tasks: BackgroundTasks,
    pub(crate) verdict: Verdict,
    pub(crate) progress: Progress,
    /// Where it stands, over HTTP/1.
    pub(crate) mark: Option<Mark>,
}

impl Ended {
    fn release(mut self, known: Known, gauge: &Gauge) {
        let yielded = self.progress.sendable();
        let (verdict, sent) = match (known, &mut self.mark) {
            (Known::Sent, _) => (self.verdict, Some(yielded)),
            (Known::Queued, _) => (self.verdict, None),
            (Known::Lost(_), Some(mark)) => ((End::Aborted, None), Some(gauge.known(mark, yielded))),
            (Known::Lost(sent), None) => ((End::Aborted, None), sent),
        };
        self.progress.sent(sent);
        self.tasks.end(&mut self.progress, Some(verdict));
    }
}

impl SentConnection {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Whether the running task is the one that serves the connection.
    fn is_served_here(&self) -> bool {
        try_id().is_some_and(|task| self.was_last(task))
    }

    /// The running task uses the IO.
    pub(crate) fn touch(&self) {
        if let Some(task) = try_id().filter(|task| !self.was_last(*task)) {
            // On a thread that ends nobody asks.
            let _ = LAST.try_with(|last| last.set(Some((task, self.clone()))));
        }
    }

    /// Whether it was this connection whose IO was last used on this thread, and by this task.
    fn was_last(&self, task: Id) -> bool {
        let was = LAST.try_with(|cell| {
            let last = cell.take();
            let was = last.as_ref().is_some_and(|(id, connection)| *id == task && Arc::ptr_eq(&connection.0, &self.0));
            cell.set(last);
            was
        });
        was.unwrap_or(false)
    }

    /// The server reads on: what it has dropped since it last used the IO, it has thrown away.
    pub(crate) fn reads(&self) {
        self.decide(Fate::Lost);
    }

    /// The server has read, and works on it until it reads again; or there was nothing to read.
    pub(crate) fn read(&self, something: bool) {
        self.0.reading.store(something, Ordering::Relaxed);
    }

    /// The server writes or flushes: what it has dropped since it last used the IO, it has put into what it writes.
    pub(crate) fn writes(&self) {
        self.0.reading.store(false, Ordering::Relaxed);
        self.decide(Fate::Written);
    }

    /// Tells the fate of guards. Only the task that serves the connection adds some, and comes here.
    fn decide(&self, fate: Fate) {
        while self.0.is_undecided.load(Ordering::Relaxed) {
            let mut state = self.state();
            let next = state.undecided.pop();
            self.0.is_undecided.store(!state.undecided.is_empty(), Ordering::Relaxed);
            drop(state);
            if let Some(dropped) = next {
                self.settle(dropped, fate);
            }
        }
    }

    pub(crate) fn gauge(&self) -> &Gauge {
        &self.0.gauge
    }

    /// Everything was read, so what is queued comes next.
    pub(crate) fn turn(&self, cx: &Context<'_>) {
        let mut state = self.state();
        let mut before = None;
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            before = state.waker.replace(cx.waker().clone());
        }
        state.waits.turn();
        self.note(&state);
        drop(state);
        // After the lock: it may be the last that holds another task.
        drop(before);
    }

    /// All that the server had written is in the socket.
    pub(crate) fn flushed(&self) {
        self.0.gauge.flushed();
        // Pairs with the store in `note`; what another thread adds at this moment waits for its own turn, and wakes for it.
        while self.0.waiting.load(Ordering::Acquire) {
            let mut state = self.state();
            let sent = state.waits.flushed();
            self.note(&state);
            drop(state);
            match sent {
                Some((ended, known)) => ended.release(known, &self.0.gauge),
                None => return,
            }
        }
    }

    /// The connection is gone, and with it what was not flushed.
    pub(crate) fn close(&self) {
        self.decide(Fate::Lost);
        loop {
            let mut state = self.state();
            let (lost, waker) = (state.waits.close(self.0.gauge.flushes()), state.waker.take());
            drop(state);
            drop(waker);
            match lost {
                Some((ended, known)) => ended.release(known, &self.0.gauge),
                None => return,
            }
        }
    }

    /// A response that the server is to get. Nothing if the connection is gone.
    pub(crate) fn hold(&self, multiplexed: bool) -> Option<Hold> {
        let key = self.state().waits.hold(multiplexed)?;
        Some(Hold { connection: self.clone(), key, whole: false })
    }

    /// Tasks wait for a response. Nothing if there are some already.
    pub(crate) fn claim(&self, key: Key) -> Option<Key> {
        self.state().waits.claim(key)
    }

    pub(crate) fn is_claimed(&self, key: Key) -> bool {
        self.state().waits.is_claimed(key)
    }

    /// The server has let go of a response, and has all of it or not.
    pub(crate) fn let_go(&self, key: Key, whole: bool) {
        self.change(|waits, flushes| waits.let_go(key, whole, flushes));
    }

    /// A guard for so much data, or for a frame without any.
    pub(crate) fn guard(&self, key: &mut Option<Key>, length: usize, last: bool) -> Option<Guard> {
        let guarded = self.state().waits.guard(*key, last);
        *key = guarded.or(*key);
        let (length, before) = (length as u64, self.0.gauge.accepted());
        guarded.map(|key| Guard { connection: self.clone(), dropped: Dropped { key, last, bytes: length }, length, before })
    }

    /// Ends the response when it is known to be sent, or lost.
    pub(crate) fn wait(&self, key: Option<Key>, ended: Ended) {
        let multiplexed = ended.mark.is_none();
        self.change(|waits, flushes| waits.ended(key, ended, multiplexed, flushes));
    }

    /// Changes what is waited for, and ends the response that is settled by that.
    fn change(&self, change: impl FnOnce(&mut Waits<Ended>, u64) -> Option<(Ended, Known)>) {
        let mut state = self.state();
        let settled = change(&mut state.waits, self.0.gauge.flushes());
        self.note(&state);
        // A server with nothing to read or to write would have no turn.
        let waker = state.waits.needs_turn().then(|| state.waker.clone()).flatten();
        drop(state);
        if let Some((ended, known)) = settled {
            ended.release(known, &self.0.gauge);
        }
        waker.into_iter().for_each(Waker::wake);
    }

    /// How much of the data of a response the socket took at least.
    pub(crate) fn flushed_data(&self, key: Key) -> Option<u64> {
        self.state().waits.flushed_data(key, self.0.gauge.flushes())
    }

    pub(crate) fn forget(&self, key: Key) {
        self.state().waits.forget(key);
    }

    pub(crate) fn asked(&self, key: Key) {
        self.state().waits.asked(key);
    }

    /// A guard is dropped.
    pub(crate) fn dropped(&self, guard: &Guard) {
        let accepted = self.0.gauge.accepted().wrapping_sub(guard.before);
        if !self.is_served_here() {
            self.settle(guard.dropped, Fate::Unknown);
        } else if self.0.reading.load(Ordering::Relaxed) || accepted.saturating_add(COPIED) < guard.length {
            self.settle(guard.dropped, Fate::Lost);
        } else {
            let mut state = self.state();
            state.undecided.push(guard.dropped);
            self.0.is_undecided.store(true, Ordering::Relaxed);
        }
    }

    fn settle(&self, dropped: Dropped, fate: Fate) {
        self.change(|waits, flushes| waits.dropped(dropped.key, fate, dropped.last, dropped.bytes, flushes));
    }

    fn note(&self, state: &State) {
        self.0.waiting.store(state.waits.is_waiting(), Ordering::Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SentConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentConnection").finish_non_exhaustive()
    }
}

/// What a server that asks a stream for what is known of it, as tonic does, puts into the extensions of each request: the
/// connection, and what the wrapped stream tells. [`Background`](crate::Background) puts the latter there by its own type, so
/// that tonic's `remote_addr` finds it below the layer.
///
/// # Examples
///
/// ```
/// use tower_background::{SentConnectInfo, SentStream};
///
/// let (stream, _other_end) = tokio::io::duplex(1024);
/// let info = SentConnectInfo::new(SentStream::new(stream).connection(), "a client");
/// # drop(info);
/// ```
#[derive(Clone)]
pub struct SentConnectInfo {
    connection: SentConnection,
    inner: Arc<dyn Fn(&mut Extensions) + Send + Sync>,
}

impl SentConnectInfo {
    /// The connection, and what is put into the extensions besides, by its type.
    pub fn new<C: Clone + Send + Sync + 'static>(connection: SentConnection, inner: C) -> Self {
        let inner = Arc::new(move |extensions: &mut Extensions| {
            extensions.insert(inner.clone());
        });
        Self { connection, inner }
    }

    /// The connection of a request, whose extensions have then what the wrapped stream tells.
    pub(crate) fn take(extensions: &mut Extensions) -> Option<SentConnection> {
        let Self { connection, inner } = extensions.remove::<Self>()?;
        inner(extensions);
        extensions.insert(connection.clone());
        Some(connection)
    }
}

impl fmt::Debug for SentConnectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentConnectInfo").finish_non_exhaustive()
    }
}
