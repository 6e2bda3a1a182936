//! The books: which tasks there are and where each stands, in figures that add up at every moment.

use std::sync::{Arc, PoisonError, Weak};

use slab::Slab;
use tokio::{sync::futures::Notified, time::Instant};

use crate::{
    exchange::Exchange,
    meter,
    name::Name,
    outcome::Figure,
    queue::Queue,
    report::{RunningTask, TaskState},
    stats::Stats,
    sync::{Mutex, MutexGuard, Notify},
    task::Key,
};

/// How far a supervisor is shut down. It only goes forward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes tasks of all requests.
    #[default]
    Open,
    /// Takes tasks of the requests that were there before, and waits for all to end.
    Draining,
    /// As before, and has told its tasks to come to their end.
    Cancelling,
    /// Takes nothing more.
    Sealed,
}

/// The request that a task is of, as the books know it.
pub(crate) trait Filer: Send + Sync {
    fn exchange(&self) -> &Exchange;
}

/// The one place that counts. Its lock is held for a few additions; a request without tasks does not take it.
pub(crate) struct Ledger {
    books: Mutex<Books>,
    /// Told, where somebody waits for that, when nothing is pending, and of each end of a task after the books were sealed.
    idle: Notify,
    /// Told when tasks are fewer than `max_pending` again.
    room: Arc<Notify>,
    max_pending: u64,
}

#[derive(Default)]
struct Books {
    stats: Stats,
    /// How many tasks were taken.
    taken: u64,
    tasks: Slab<Entry>,
    phase: Phase,
    /// How many wait for tasks to end.
    waiters: usize,
    ended_in_time: u64,
    ended_when_cancelled: u64,
    /// What was left when the rest was dropped.
    abandoned: Vec<RunningTask>,
}

struct Entry {
    name: Option<Name>,
    filer: Weak<dyn Filer>,
    /// When the task was added, if that was after the release.
    added: Option<Instant>,
    /// How many tasks were added before.
    nth: u64,
    state: TaskState,
}

impl Ledger {
    pub(crate) fn new(max_pending: Option<usize>) -> Self {
        Self {
            books: Mutex::default(),
            idle: Notify::new(),
            room: Arc::default(),
            max_pending: max_pending.map_or(u64::MAX, |max| max as u64),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.books().stats
    }

    /// The tasks that wait or run, the oldest first.
    pub(crate) fn running(&self) -> Vec<RunningTask> {
        let mut held = Vec::new();
        self.books().describe(|entry| entry.state != TaskState::Collected, &mut held)
    }

    pub(crate) fn task(&self, key: Key) -> Option<RunningTask> {
        let mut held = Vec::new();
        self.books().tasks.get(key).and_then(|entry| entry.describe(Instant::now(), &mut held))
    }

    /// Enters a task; one with a time of its own waits, as its response is over. Nothing if it is refused.
    #[inline]
    pub(crate) fn add(&self, name: Option<&Name>, filer: Weak<dyn Filer>, admitted: bool, added: Option<Instant>) -> Option<Key> {
        let state = if added.is_some() { TaskState::Waiting } else { TaskState::Collected };
        let mut books = self.books();
        if books.phase == Phase::Sealed || (books.phase > Phase::Open && !admitted) {
            books.stats.refused += 1;
            return None;
        }
        *books.figure(state) += 1;
        let nth = books.taken;
        books.taken += 1;
        let key = books.tasks.insert(Entry { name: name.cloned(), filer, added, nth, state });
        Some(key)
    }

    /// Collected tasks wait from now on.
    #[inline]
    pub(crate) fn release(&self, tasks: &mut Queue) {
        let mut books = self.books();
        let released = u64::from(tasks.len());
        books.stats.collected -= released;
        books.stats.waiting += released;
        tasks.for_each(|task| {
            if let Some(entry) = task.header().key.and_then(|key| books.tasks.get_mut(key)) {
                entry.state = TaskState::Waiting;
            }
        });
    }

    /// A waiting task runs from now on.
    #[inline]
    pub(crate) fn start(&self, key: Key) {
        let mut books = self.books();
        books.stats.waiting -= 1;
        books.stats.running += 1;
        if let Some(entry) = books.tasks.get_mut(key) {
            entry.state = TaskState::Running;
        }
        drop(books);
        meter::moved(Some(TaskState::Waiting), Some(TaskState::Running), 1);
    }

    /// A task has ended.
    #[inline]
    pub(crate) fn end(&self, key: Key, figure: Figure) {
        let mut books = self.books();
        let Some(entry) = books.tasks.try_remove(key) else { return };
        let was_full = self.is_limited() && books.stats.pending() >= self.max_pending;
        *books.figure(entry.state) -= 1;
        *figure(&mut books.stats) += 1;
        match books.phase {
            Phase::Draining => books.ended_in_time += 1,
            Phase::Cancelling => books.ended_when_cancelled += 1,
            Phase::Open | Phase::Sealed => {}
        }
        let pending = books.stats.pending();
        let is_told = books.waiters > 0 && (pending == 0 || books.phase == Phase::Sealed);
        drop(books);
        if is_told {
            self.idle.notify_waiters();
        }
        if was_full && pending < self.max_pending {
            self.room.notify_waiters();
        }
        meter::moved(Some(entry.state), None, 1);
    }

    /// Has the ends of tasks told, from now on until this is dropped. Who comes before the end of a task in the books is told of
    /// it; who comes after it finds it in the figures.
    pub(crate) fn wait(&self) -> Waiter<'_> {
        self.books().waiters += 1;
        Waiter(self)
    }

    /// Waits until nothing is collected, waiting or running.
    pub(crate) async fn idle(&self) {
        let waiter = self.wait();
        loop {
            // Made before the figures are read: a task that ends in between still wakes it.
            let idle = waiter.notified();
            if self.stats().pending() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Whether a limit is set for the tasks that have not ended.
    #[inline]
    pub(crate) const fn is_limited(&self) -> bool {
        self.max_pending != u64::MAX
    }

    /// Whether another task would be within the limit, or would be refused anyway.
    pub(crate) fn has_room(&self) -> bool {
        let books = self.books();
        books.phase > Phase::Open || books.stats.pending() < self.max_pending
    }

    pub(crate) fn room(&self) -> Arc<Notify> {
        Arc::clone(&self.room)
    }

    /// Goes on to a later phase of shutting down.
    pub(crate) fn advance(&self, phase: Phase) {
        let mut books = self.books();
        books.phase = books.phase.max(phase);
        drop(books);
        self.room.notify_waiters();
    }

    /// Takes nothing more from now on, if nothing is pending now.
    pub(crate) fn seal_if_idle(&self) -> bool {
        let mut books = self.books();
        let idle = books.stats.pending() == 0;
        if idle {
            books.phase = Phase::Sealed;
        }
        idle
    }

    /// Takes nothing more from now on, and notes what is left.
    pub(crate) fn seal(&self) {
        let mut held = Vec::new();
        let mut books = self.books();
        if books.phase != Phase::Sealed {
            books.phase = Phase::Sealed;
            books.abandoned = books.describe(|_| true, &mut held);
        }
    }

    /// How many tasks ended in time after the begin of a shutdown, how many after they were told to, and which were left.
    pub(crate) fn shutdown_figures(&self) -> (u64, u64, Vec<RunningTask>) {
        let books = self.books();
        (books.ended_in_time, books.ended_when_cancelled, books.abandoned.clone())
    }

    #[inline]
    fn books(&self) -> MutexGuard<'_, Books> {
        // A panic under this lock is a bug of the books themselves, and must not become one of every request.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for tasks to end.
pub(crate) struct Waiter<'a>(&'a Ledger);

impl<'a> Waiter<'a> {
    /// Told when nothing is pending, and of each end of a task after the books were sealed. It is made before the figures are
    /// read.
    pub(crate) fn notified(&self) -> Notified<'a> {
        self.0.idle.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.books().waiters -= 1;
    }
}

impl Books {
    /// What is held is to be let go of without the lock: it may be the last of a request, whose own end is for the books.
    fn describe(&self, which: impl Fn(&Entry) -> bool, held: &mut Vec<Arc<dyn Filer>>) -> Vec<RunningTask> {
        let now = Instant::now();
        let entries = self.tasks.iter().map(|(_, entry)| entry).filter(|entry| which(entry));
        let mut tasks: Vec<_> = entries.filter_map(|entry| Some((entry.describe(now, held)?, entry.nth))).collect();
        tasks.sort_by_key(|(task, nth)| (std::cmp::Reverse(task.age), *nth));
        tasks.into_iter().map(|(task, _)| task).collect()
    }

    const fn figure(&mut self, state: TaskState) -> &mut u64 {
        match state {
            TaskState::Collected => &mut self.stats.collected,
            TaskState::Waiting => &mut self.stats.waiting,
            TaskState::Running => &mut self.stats.running,
        }
    }
}

impl Entry {
    /// Nothing if the task is being let go of with its registry.
    fn describe(&self, now: Instant, held: &mut Vec<Arc<dyn Filer>>) -> Option<RunningTask> {
        let filer = self.filer.upgrade()?;
        let exchange = filer.exchange();
        let task = RunningTask {
            name: self.name.clone(),
            method: exchange.method.clone(),
            path: exchange.path.clone(),
            age: now.saturating_duration_since(self.added.unwrap_or_else(|| exchange.age_from())),
            state: self.state,
        };
        held.push(filer);
        Some(task)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
