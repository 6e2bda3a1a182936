//! The table of all tasks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::{sync::Notify, task::AbortHandle, time::timeout};
use tokio_util::task::TaskTracker;

use super::Tasks;

#[derive(Clone, Default)]
pub(crate) struct Supervisor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    /// Is notified when no task runs any more.
    quiet: Notify,
    open: TaskTracker,
}

#[derive(Default)]
struct Table {
    entries: Slab<Entry>,
    stats: Stats,
    closed: bool,
}

struct Entry {
    serial: u64,
    name: &'static str,
    request: Tasks,
    added: Instant,
    running: bool,
    abort: Option<AbortHandle>,
}

/// The place of a task in the table. A place is reused, and the serial number is not.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    index: usize,
    serial: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    Panicked,
    Aborted,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) added: u64,
    pub(crate) deferred: u64,
    pub(crate) running: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) panicked: u64,
    pub(crate) aborted: u64,
}

/// A task that has not ended.
#[derive(Debug)]
pub(crate) struct TaskInfo {
    pub(crate) name: &'static str,
    pub(crate) path: String,
    pub(crate) age: Duration,
    pub(crate) running: bool,
}

impl Supervisor {
    pub(crate) fn stats(&self) -> Stats {
        self.table().stats
    }

    pub(crate) fn open_responses(&self) -> usize {
        self.open().len()
    }

    pub(crate) fn tasks(&self) -> Vec<TaskInfo> {
        let table = self.table();
        let info = |entry: &Entry| TaskInfo {
            name: entry.name,
            path: entry.request.path().to_owned(),
            age: entry.added.elapsed(),
            running: entry.running,
        };
        table.entries.iter().map(|(_, entry)| info(entry)).collect()
    }

    /// Waits until there is no task.
    pub(crate) async fn idle(&self) {
        loop {
            let quiet = self.0.quiet.notified();
            if self.table().entries.is_empty() {
                return;
            }
            quiet.await;
        }
    }

    /// Waits for open responses and tasks, then aborts the tasks that are left. Later tasks are
    /// refused.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.open().close();
        let drained = async {
            self.open().wait().await;
            self.idle().await;
        };
        let _ = timeout(grace, drained).await;
        let handles: Vec<_> = {
            let mut table = self.table();
            table.closed = true;
            table
                .entries
                .iter()
                .filter_map(|(_, entry)| entry.abort.clone())
                .collect()
        };
        handles.iter().for_each(AbortHandle::abort);
        // A deferred task is aborted when its response ends. This does not wait for it.
        loop {
            let quiet = self.0.quiet.notified();
            if self.stats().running == 0 {
                return;
            }
            quiet.await;
        }
    }

    pub(super) fn open(&self) -> &TaskTracker {
        &self.0.open
    }

    /// Adds a deferred task to the table. Returns `None` after a shutdown.
    pub(super) fn insert(&self, name: &'static str, request: Tasks) -> Option<Key> {
        let added = Instant::now();
        let mut table = self.table();
        if table.closed {
            return None;
        }
        table.stats.added += 1;
        table.stats.deferred += 1;
        let serial = table.stats.added;
        let index = table.entries.insert(Entry {
            serial,
            name,
            request,
            added,
            running: false,
            abort: None,
        });
        Some(Key { index, serial })
    }

    /// Notes that a task was spawned, unless the task has ended already.
    pub(super) fn started(&self, key: Key, abort: AbortHandle) {
        let mut table = self.table();
        let Table {
            entries,
            stats,
            closed,
        } = &mut *table;
        let Some(entry) = entries
            .get_mut(key.index)
            .filter(|entry| entry.serial == key.serial)
        else {
            return;
        };
        entry.running = true;
        stats.deferred -= 1;
        stats.running += 1;
        if *closed {
            drop(table);
            abort.abort();
        } else {
            entry.abort = Some(abort);
        }
    }

    /// Removes a task from the table, and counts its outcome.
    pub(super) fn ended(&self, key: Key, outcome: Outcome) {
        let mut table = self.table();
        let entry = table.entries.remove(key.index);
        let stats = &mut table.stats;
        *(if entry.running {
            &mut stats.running
        } else {
            &mut stats.deferred
        }) -= 1;
        *match outcome {
            Outcome::Succeeded => &mut stats.succeeded,
            Outcome::Failed => &mut stats.failed,
            Outcome::Panicked => &mut stats.panicked,
            Outcome::Aborted => &mut stats.aborted,
        } += 1;
        let quiet = table.stats.running == 0;
        drop(table);
        if quiet {
            self.0.quiet.notify_waiters();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
