//! [`TaskTable`]: all tasks that have not ended, and the statistics, under one lock.
//!
//! The lock is held for a few additions. Whatever belongs to the user, or could be the last handle
//! of it, is dropped after the lock is released.

use std::{
    ptr,
    sync::{Arc, Weak},
    task::Waker,
};

use tokio::{sync::futures::OwnedNotified, time::Instant};

use super::{
    report::TaskInfo,
    slots::{Key, SEGMENT, Slots},
    stats::{Counter, Stats},
    task_state::TaskState,
};
use crate::{
    response::{RequestInfo, ResponseEnd},
    task::Name,
    util::sync::{
        Mutex, MutexGuard, Notify,
        atomic::{AtomicBool, Ordering},
        lock,
    },
};

/// How far a supervisor is shut down. It only goes forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes tasks of all requests.
    #[default]
    Open,
    /// Takes tasks of requests that came before the shutdown, and waits for all tasks.
    Draining,
    /// The grace is over, and tasks were asked to stop.
    Cancelling,
    /// Takes no tasks. Those that are left are listed for the report.
    Closed,
    /// Takes no tasks, and those that are left stop.
    Sealed,
}

/// Why a task should not run to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Remove,
    Abort,
}

/// The request that a task belongs to. It lives at least as long as its tasks.
pub(crate) trait Owner: Send + Sync {
    fn has_request(&self) -> bool;

    /// Returns whether the request came before the supervisor was shut down.
    fn is_admitted(&self) -> bool;

    /// Returns what is known of the request. `None` for a task without a request.
    fn request(&self) -> Option<RequestInfo>;

    /// Returns how the response ended, once it has.
    fn end(&self) -> Option<Arc<ResponseEnd>>;

    /// A shutdown has come to this phase: `Cancelling` or `Sealed`.
    fn shut_down(self: Arc<Self>, phase: Phase);
}

/// See the module's documentation.
pub(super) struct TaskTable {
    inner: OwnLines<Mutex<Inner>>,
    /// Whether some task should stop. Tasks ask for it at each poll, so it is not under the lock.
    has_stops: AtomicBool,
    /// Notifies those who wait until nothing is pending.
    idle: Notify,
    /// Notifies services that wait for fewer tasks than `max_pending`.
    capacity: Arc<Notify>,
    max_pending: u64,
}

/// A value with cache lines of its own. All workers write to it, and what lies beside it is read for
/// each request.
#[derive(Default)]
#[repr(align(128))]
struct OwnLines<T>(T);

#[derive(Default)]
struct Inner {
    stats: Stats,
    tasks: Slots<Entry>,
    phase: Phase,
    /// How many tasks of the table were asked to stop.
    stopped: usize,
    /// How many tasks without a request are among the pending ones.
    without_request: u64,
    /// How many callers wait for tasks to end.
    waiters: usize,
    shutdown: ShutdownCounts,
}

/// How many tasks ended in a shutdown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShutdownCounts {
    /// Within the grace.
    pub(super) finished: u64,
    /// By their fallback.
    pub(super) fell_back: u64,
    /// After they were cancelled.
    pub(super) cancelled: u64,
}

pub(super) struct Entry {
    pub(super) name: Option<Name>,
    pub(super) owner: Weak<dyn Owner>,
    pub(super) has_request: bool,
    pub(super) state: TaskState,
    /// When the task was allowed to run.
    pub(super) since: Option<Instant>,
    /// Whether the task has a fallback; once it is added, whether it runs that although the
    /// supervisor is closed.
    pub(super) is_fallback: bool,
    pub(super) stop: Option<Stop>,
    /// Wakes the task, so that it can stop. A task that has never waited has none.
    pub(super) waker: Option<Waker>,
}

/// What the table and the request know of a task.
pub(super) struct Described {
    pub(super) task: TaskInfo,
    /// When the task was allowed to run.
    pub(super) since: Option<Instant>,
    pub(super) stop: Option<Stop>,
    /// The request of the task, if the task was allowed to run.
    pub(super) owner: Option<Arc<dyn Owner>>,
}

impl TaskTable {
    pub(super) fn new(max_pending: Option<usize>) -> Self {
        Self {
            inner: OwnLines::default(),
            has_stops: AtomicBool::new(false),
            idle: Notify::new(),
            capacity: Arc::default(),
            max_pending: max_pending.map_or(u64::MAX, |max| max as u64),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Adds a task. Returns whether the supervisor is closed, so that the task runs its fallback.
    /// Returns `None` if the table takes no task.
    #[inline]
    pub(super) fn add(&self, mut entry: Entry, admitted: bool) -> Option<(Key, bool)> {
        let mut inner = self.lock();
        let is_closed = inner.phase >= Phase::Closed || (inner.phase > Phase::Open && !admitted);
        if is_closed && !entry.is_fallback {
            // The lock is released before the entry is dropped.
            return None;
        }
        entry.is_fallback = is_closed;
        *inner.stats.of(entry.state) += 1;
        inner.without_request += u64::from(!entry.has_request);
        let key = inner.tasks.insert(entry);
        Some((key, is_closed))
    }

    /// Counts a task that was not taken.
    pub(super) fn refuse(&self) {
        self.lock().stats.refused += 1;
    }

    /// Deferred tasks are allowed to run.
    #[inline]
    pub(super) fn allow(&self, tasks: impl Iterator<Item = (Key, TaskState)>, since: Instant) {
        let mut inner = self.lock();
        for (key, state) in tasks {
            inner.set_state(key, state, Some(since));
        }
    }

    /// A task starts to run. Returns `false` if it should not.
    #[inline]
    pub(super) fn start(&self, key: Key) -> bool {
        let mut inner = self.lock();
        let may_run = inner.runnable(key).is_some();
        if may_run {
            inner.set_state(key, TaskState::Running, None);
        }
        may_run
    }

    /// Returns whether a task may go on. A task asks before each poll.
    #[inline]
    pub(super) fn may_go_on(&self, key: Key) -> bool {
        !self.has_stops.load(Ordering::Acquire) || self.lock().runnable(key).is_some()
    }

    /// A task waits. Keeps the waker by which it learns that it should stop. Returns `false` if it
    /// should stop now.
    #[inline]
    pub(super) fn keep_waker(&self, key: Key, waker: &Waker) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.runnable(key) else {
            return false;
        };
        entry.waker = Some(waker.clone());
        true
    }

    /// Asks a task to stop. Only a queued task can be removed. Returns whether it was asked.
    pub(super) fn stop(&self, key: Key, stop: Stop) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.tasks.get_mut(key) else {
            return false;
        };
        let can_stop = stop == Stop::Abort || entry.state == TaskState::Queued;
        if entry.stop.is_some() || !can_stop {
            return false;
        }
        entry.stop = Some(stop);
        let waker = entry.waker.clone();
        inner.stopped += 1;
        self.note_stops(&inner);
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Returns the queued tasks of a request that have this name.
    pub(super) fn queued(&self, owner: &(dyn Owner + 'static), name: &str) -> Vec<Key> {
        self.collect(|key, entry| {
            let is_same_request = ptr::addr_eq(entry.owner.as_ptr(), owner);
            let is_queued = entry.state == TaskState::Queued;
            let is_wanted = is_same_request && is_queued && entry.name.as_deref() == Some(name);
            is_wanted.then_some(key)
        })
    }

    /// Describes a task that has not ended.
    pub(super) fn describe(&self, key: Key) -> Option<Described> {
        let (listed, stop) = {
            let mut inner = self.lock();
            let entry = inner.tasks.get_mut(key)?;
            (Listed::new(key, entry), entry.stop)
        };
        let owner = listed.owner.upgrade();
        let is_allowed = listed.state != TaskState::Deferred;
        Some(Described {
            since: listed.since,
            stop,
            owner: owner.filter(|_| is_allowed),
            task: listed.describe(Instant::now()),
        })
    }

    /// Removes a task and counts its outcome.
    #[inline]
    pub(super) fn end(&self, key: Key, outcome: Counter) {
        let mut inner = self.lock();
        let Some(entry) = inner.tasks.remove(key) else {
            return;
        };
        let was_full = self.is_limited() && inner.pending_of_requests() >= self.max_pending;
        *inner.stats.of(entry.state) -= 1;
        inner.without_request -= u64::from(!entry.has_request);
        if entry.stop.is_some() {
            inner.stopped -= 1;
            self.note_stops(&inner);
        }
        let fell_back = inner.stats.fell_back;
        outcome(&mut inner.stats);
        if inner.phase != Phase::Open {
            let fell_back = inner.stats.fell_back > fell_back;
            inner.count_in_shutdown(fell_back);
        }
        let is_idle = inner.waiters > 0 && inner.stats.pending() == 0;
        let has_capacity = was_full && inner.pending_of_requests() < self.max_pending;
        let unused = inner.tasks.take_unused();
        drop(inner);
        drop(unused);
        if is_idle {
            self.idle.notify_waiters();
        }
        if has_capacity {
            self.capacity.notify_waiters();
        }
    }

    /// Returns all tasks, the oldest first. It is no snapshot: the lock is released between the
    /// segments of the table.
    pub(super) fn tasks(&self) -> Vec<TaskInfo> {
        let mut tasks = self.collect(|key, entry| Some(Listed::new(key, entry)));
        tasks.sort_by_key(|task| task.serial);
        let now = Instant::now();
        tasks.into_iter().map(|task| task.describe(now)).collect()
    }

    /// Wakes the tasks that wait, so that they stop, but not those that may run after the shutdown.
    pub(super) fn wake_stopped(&self) {
        let wakers = self.collect(|_, entry| {
            if entry.is_fallback {
                None
            } else {
                entry.waker.clone()
            }
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns all requests whose tasks wait.
    pub(super) fn owners(&self) -> Vec<Weak<dyn Owner>> {
        let mut owners = self.collect(|_, entry| {
            (entry.state != TaskState::Running).then(|| Weak::clone(&entry.owner))
        });
        owners.sort_by_key(|owner| owner.as_ptr().addr());
        owners.dedup_by(|one, other| ptr::addr_eq(one.as_ptr(), other.as_ptr()));
        owners
    }

    /// Calls `f` with each entry, and returns what it returns. The lock is released between the
    /// segments of the table.
    fn collect<R>(&self, mut f: impl FnMut(Key, &mut Entry) -> Option<R>) -> Vec<R> {
        let mut all = Vec::new();
        for number in 0.. {
            // Without the lock, because this may move all that was collected.
            all.reserve(SEGMENT);
            let mut inner = self.lock();
            let Some(segment) = inner.tasks.segment(number) else {
                break;
            };
            all.extend(segment.filter_map(|(key, entry)| f(key, entry)));
        }
        all
    }

    /// Waits until no task is pending.
    pub(super) async fn idle(&self) {
        let _waiter = Waiter::new(self);
        loop {
            // Created before the numbers are read, so that no end of a task is missed.
            let idle = self.idle.notified();
            if self.stats().pending() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Returns whether `max_pending` is set.
    #[inline]
    pub(super) const fn is_limited(&self) -> bool {
        self.max_pending != u64::MAX
    }

    /// Returns `None` if another request may come in, or else what waits until the next time that
    /// there is capacity.
    pub(super) fn wait_for_capacity(&self) -> Option<OwnedNotified> {
        // Created before the numbers are read, so that no end of a task is missed.
        let capacity = Arc::clone(&self.capacity).notified_owned();
        let inner = self.lock();
        let has_capacity =
            inner.phase > Phase::Open || inner.pending_of_requests() < self.max_pending;
        (!has_capacity).then_some(capacity)
    }

    /// Goes on to a later phase.
    pub(super) fn advance(&self, phase: Phase) {
        let mut inner = self.lock();
        inner.phase = inner.phase.max(phase);
        self.note_stops(&inner);
        drop(inner);
        self.capacity.notify_waiters();
    }

    /// Seals the table if no task is pending.
    pub(super) fn seal_if_idle(&self) -> bool {
        let mut inner = self.lock();
        let is_idle = inner.stats.pending() == 0;
        if is_idle {
            inner.phase = Phase::Sealed;
            self.note_stops(&inner);
        }
        is_idle
    }

    /// Returns how many tasks ended in the shutdown.
    pub(super) fn shutdown_counts(&self) -> ShutdownCounts {
        self.lock().shutdown
    }

    /// Tells tasks whether some of them should stop.
    #[cold]
    fn note_stops(&self, inner: &Inner) {
        let has_stops = inner.stopped > 0 || inner.phase == Phase::Sealed;
        self.has_stops.store(has_stops, Ordering::Release);
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner.0)
    }
}

/// A caller that waits for tasks to end. Without one, nobody needs a notification.
struct Waiter<'a>(&'a TaskTable);

impl<'a> Waiter<'a> {
    fn new(table: &'a TaskTable) -> Self {
        table.lock().waiters += 1;
        Self(table)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.lock().waiters -= 1;
    }
}

impl Inner {
    /// Returns the entry of a task that may run.
    #[inline]
    fn runnable(&mut self, key: Key) -> Option<&mut Entry> {
        let is_sealed = self.phase == Phase::Sealed;
        let entry = self.tasks.get_mut(key)?;
        (entry.stop.is_none() && (!is_sealed || entry.is_fallback)).then_some(entry)
    }

    #[inline]
    fn set_state(&mut self, key: Key, state: TaskState, since: Option<Instant>) {
        let Some(entry) = self.tasks.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut entry.state, state);
        entry.since = since.or(entry.since);
        *self.stats.of(before) -= 1;
        *self.stats.of(state) += 1;
    }

    /// Counts a task that ended in a shutdown.
    #[cold]
    const fn count_in_shutdown(&mut self, fell_back: bool) {
        match self.phase {
            Phase::Open | Phase::Closed | Phase::Sealed => {}
            Phase::Draining | Phase::Cancelling if fell_back => self.shutdown.fell_back += 1,
            Phase::Draining => self.shutdown.finished += 1,
            Phase::Cancelling => self.shutdown.cancelled += 1,
        }
    }

    const fn pending_of_requests(&self) -> u64 {
        self.stats.pending() - self.without_request
    }
}

/// A copy of an entry. Only [`describe`](Self::describe) asks the request, when no lock is held.
struct Listed {
    serial: u64,
    name: Option<Name>,
    owner: Weak<dyn Owner>,
    state: TaskState,
    since: Option<Instant>,
}

impl Listed {
    fn new(key: Key, entry: &Entry) -> Self {
        Self {
            serial: key.serial(),
            name: entry.name.clone(),
            owner: Weak::clone(&entry.owner),
            state: entry.state,
            since: entry.since,
        }
    }

    fn describe(self, now: Instant) -> TaskInfo {
        let request = self.owner.upgrade().and_then(|owner| owner.request());
        TaskInfo::new(self.name, request, self.state, self.since, now)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
