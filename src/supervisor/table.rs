//! [`TaskTable`]: all tasks that have not ended, and the statistics.
//!
//! The table has several shards. A thread always adds tasks to the same shard, and tasks mostly run on
//! the thread that added them, so that threads seldom wait for each other's locks. A lock is held for
//! a few additions. Whatever belongs to the user, or could be the last handle of it, is dropped after
//! the lock is released.

use std::{
    array,
    cmp::Reverse,
    ptr,
    sync::{Arc, Weak},
    task::Waker,
};

use tokio::{sync::futures::OwnedNotified, time::Instant};

use super::{
    owner::{Owner, Phase},
    report::TaskInfo,
    shard::{Entry, Shard, ShutdownCounts, Stop},
    slots::{Key, SEGMENT},
    stats::{Counter, Stats},
    task_state::TaskState,
    thread_number::thread_number,
};
use crate::{
    task::Name,
    util::sync::{
        Mutex, MutexGuard, Notify,
        atomic::{AtomicUsize, Ordering},
        lock,
    },
};

/// See the module's documentation.
pub(super) struct TaskTable {
    shards: [OwnLines<Mutex<Shard>>; SHARDS],
    /// How many tasks were asked to stop, and how often the table was sealed. Tasks look at it before
    /// each poll, so it is not under a lock.
    stops: AtomicUsize,
    /// How many callers wait for tasks to end. Without one, nobody needs a notification.
    waiters: AtomicUsize,
    /// Notifies those who wait until nothing is pending.
    idle: Notify,
    /// Notifies services that wait for fewer tasks than `max_pending`.
    capacity: Arc<Notify>,
    max_pending: u64,
}

const SHARDS: usize = if cfg!(all(test, background_loom)) {
    2
} else {
    16
};

/// A value with cache lines of its own. One thread writes to it, and others to what lies beside it.
#[repr(align(128))]
struct OwnLines<T>(T);

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
            shards: array::from_fn(|number| OwnLines(Mutex::new(Shard::new(number, SHARDS)))),
            stops: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            idle: Notify::new(),
            capacity: Arc::default(),
            max_pending: max_pending.map_or(u64::MAX, |max| max as u64),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        sum(&self.lock_all())
    }

    /// Adds a task. Returns whether the supervisor is closed, so that the task runs its fallback.
    /// Returns `None` if the table takes no task.
    #[inline]
    pub(super) fn add(&self, entry: Entry, admitted: bool) -> Option<(Key, bool)> {
        self.add_to(self.own_shard(), entry, admitted)
    }

    #[inline]
    fn add_to(&self, number: usize, mut entry: Entry, admitted: bool) -> Option<(Key, bool)> {
        let mut shard = self.lock(number);
        let is_closed = shard.phase >= Phase::Closed || (shard.phase > Phase::Open && !admitted);
        if is_closed && !entry.is_fallback {
            // The lock is released before the entry is dropped.
            return None;
        }
        entry.is_fallback = is_closed;
        Some((shard.insert(entry), is_closed))
    }

    /// Counts a task that was not taken.
    pub(super) fn refuse(&self) {
        self.lock(self.own_shard()).stats.refused += 1;
    }

    /// Deferred tasks are allowed to run. Those that the same thread has added take one lock.
    #[inline]
    pub(super) fn allow(&self, tasks: impl Iterator<Item = (Key, TaskState)>, since: Instant) {
        let mut tasks = tasks.peekable();
        while let Some((first, _)) = tasks.peek() {
            let number = number_of(*first);
            let mut shard = self.lock(number);
            while let Some((key, state)) = tasks.next_if(|(key, _)| number_of(*key) == number) {
                shard.set_state(key, state, Some(since));
            }
        }
    }

    /// A task starts to run. Returns `false` if it should not.
    #[inline]
    pub(super) fn start(&self, key: Key) -> bool {
        let mut shard = self.shard_of(key);
        let may_run = shard.runnable(key).is_some();
        if may_run {
            shard.set_state(key, TaskState::Running, None);
        }
        may_run
    }

    /// Returns whether a task may go on. A task asks before each poll.
    #[inline]
    pub(super) fn may_go_on(&self, key: Key) -> bool {
        self.stops.load(Ordering::Acquire) == 0 || self.shard_of(key).runnable(key).is_some()
    }

    /// A task waits. Keeps the waker by which it learns that it should stop. Returns `false` if it
    /// should stop now.
    #[inline]
    pub(super) fn keep_waker(&self, key: Key, waker: &Waker) -> bool {
        let mut shard = self.shard_of(key);
        let Some(entry) = shard.runnable(key) else {
            return false;
        };
        entry.waker = Some(waker.clone());
        true
    }

    /// Asks a task to stop. Only a queued task can be removed. Returns whether it was asked.
    pub(super) fn stop(&self, key: Key, stop: Stop) -> bool {
        let mut shard = self.shard_of(key);
        let Some(entry) = shard.tasks.get_mut(key) else {
            return false;
        };
        let can_stop = stop == Stop::Abort || entry.state == TaskState::Queued;
        if entry.stop.is_some() || !can_stop {
            return false;
        }
        entry.stop = Some(stop);
        let waker = entry.waker.clone();
        self.stops.fetch_add(1, Ordering::Release);
        drop(shard);
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
            let mut shard = self.shard_of(key);
            let entry = shard.tasks.get_mut(key)?;
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
        let mut shard = self.shard_of(key);
        let was_full = self.is_limited() && shard.pending_of_requests() >= self.max_pending;
        let Some(entry) = shard.remove(key, outcome) else {
            return;
        };
        if entry.stop.is_some() {
            self.stops.fetch_sub(1, Ordering::Release);
        }
        let may_be_idle = shard.stats.pending() == 0 && self.waiters.load(Ordering::Relaxed) > 0;
        let has_capacity = was_full && shard.pending_of_requests() < self.max_pending;
        let unused = shard.tasks.take_unused();
        drop(shard);
        drop(unused);
        if may_be_idle {
            self.notify_if_idle();
        }
        if has_capacity {
            self.capacity.notify_waiters();
        }
    }

    /// Wakes those who wait, if no task of all shards is pending.
    #[cold]
    fn notify_if_idle(&self) {
        if self.stats().pending() == 0 {
            self.idle.notify_waiters();
        }
    }

    /// Returns all tasks, the oldest first. It is no snapshot: a lock is released between the
    /// segments of the table.
    pub(super) fn tasks(&self) -> Vec<TaskInfo> {
        let listed = self.collect(|key, entry| Some(Listed::new(key, entry)));
        let now = Instant::now();
        let mut tasks: Vec<_> = listed
            .into_iter()
            .map(|listed| (listed.serial, listed.describe(now)))
            .collect();
        tasks.sort_by_key(|(serial, task)| (Reverse(task.age), *serial));
        tasks.into_iter().map(|(_, task)| task).collect()
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

    /// Calls `f` with each entry, and returns what it returns. A lock is released between the
    /// segments of the table.
    fn collect<R>(&self, mut f: impl FnMut(Key, &mut Entry) -> Option<R>) -> Vec<R> {
        let mut all = Vec::new();
        for number in 0..SHARDS {
            for segment in 0.. {
                // Without the lock, because this may move all that was collected.
                all.reserve(SEGMENT);
                let mut shard = self.lock(number);
                let Some(entries) = shard.tasks.segment(segment) else {
                    break;
                };
                all.extend(entries.filter_map(|(key, entry)| f(key, entry)));
            }
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
        let shard = self.lock(self.own_shard());
        let has_capacity =
            shard.phase > Phase::Open || shard.pending_of_requests() < self.max_pending;
        (!has_capacity).then_some(capacity)
    }

    /// Goes on to a later phase.
    pub(super) fn advance(&self, phase: Phase) {
        self.set_phase(&mut self.lock_all(), phase);
        self.capacity.notify_waiters();
    }

    /// Seals the table if no task is pending.
    pub(super) fn seal_if_idle(&self) -> bool {
        let mut shards = self.lock_all();
        let is_idle = sum(&shards).pending() == 0;
        if is_idle {
            self.set_phase(&mut shards, Phase::Sealed);
        }
        is_idle
    }

    fn set_phase(&self, shards: &mut [MutexGuard<'_, Shard>; SHARDS], phase: Phase) {
        for shard in shards {
            shard.phase = shard.phase.max(phase);
        }
        if phase == Phase::Sealed {
            self.stops.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns how many tasks ended in the shutdown.
    pub(super) fn shutdown_counts(&self) -> ShutdownCounts {
        let mut counts = ShutdownCounts::default();
        for shard in self.lock_all() {
            counts.finished += shard.shutdown.finished;
            counts.fell_back += shard.shutdown.fell_back;
            counts.cancelled += shard.shutdown.cancelled;
        }
        counts
    }

    /// Returns the number of the shard for tasks that this thread adds. A table with `max_pending`
    /// uses one shard, because each end of a task asks for the number of all.
    #[inline]
    fn own_shard(&self) -> usize {
        if self.is_limited() {
            0
        } else {
            thread_number()
        }
    }

    /// Locks the shard of a task.
    #[inline]
    fn shard_of(&self, key: Key) -> MutexGuard<'_, Shard> {
        self.lock(number_of(key))
    }

    /// Locks all shards. They are always locked in this order, and nobody else locks several.
    fn lock_all(&self) -> [MutexGuard<'_, Shard>; SHARDS] {
        array::from_fn(|number| self.lock(number))
    }

    #[inline]
    fn lock(&self, number: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[number % SHARDS].0)
    }
}

/// Returns the number of the shard of a task.
#[expect(clippy::cast_possible_truncation, reason = "it is less than SHARDS")]
#[inline]
const fn number_of(key: Key) -> usize {
    (key.serial() % SHARDS as u64) as usize
}

/// Returns the statistics of all shards.
fn sum(shards: &[MutexGuard<'_, Shard>; SHARDS]) -> Stats {
    let mut stats = Stats::default();
    for shard in shards {
        stats.add(&shard.stats);
    }
    stats
}

/// A caller that waits for tasks to end.
struct Waiter<'a>(&'a TaskTable);

impl<'a> Waiter<'a> {
    fn new(table: &'a TaskTable) -> Self {
        // It then takes the locks, and whoever takes one after that sees this.
        table.waiters.fetch_add(1, Ordering::Relaxed);
        Self(table)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
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
