//! What a [`BackgroundTasks`](crate::BackgroundTasks) stands for: the tasks of one request, and how far its response is.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::PoisonError,
};

use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    exchange::Exchange,
    name::Name,
    order::Order,
    outcome::Outcome,
    report::TaskReport,
    supervisor::Supervisor,
    sync::{Mutex, MutexGuard},
    task::{Key, Task},
    tasks::BackgroundTasks,
};

pub(crate) struct Registry {
    pub(crate) supervisor: Supervisor,
    /// Whether the request came before the supervisor was shut down.
    pub(crate) admitted: bool,
    /// The registry of another supervisor's layer, which this one has replaced in the request's extensions.
    pub(crate) outer: Option<BackgroundTasks>,
    pub(crate) exchange: Exchange,
    slot: Mutex<Slot>,
}

/// The part of a registry that changes.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) released: bool,
    /// Whether a runner is at the sequence.
    pub(crate) in_sequence: bool,
    pub(crate) order: Option<Order>,
    /// How many tasks were filed, and how many of them have no report yet.
    pub(crate) filed: usize,
    pub(crate) unreported: usize,
    pub(crate) collected: Collected,
    pub(crate) runtime: Option<Handle>,
    rare: Option<Box<Rare>>,
}

/// What most requests do without.
#[derive(Default)]
pub(crate) struct Rare {
    /// What is released and waits for its turn.
    pub(crate) sequence: VecDeque<Task>,
    /// What is released and waits for a place, by its place in the order added.
    pub(crate) in_line: BTreeMap<usize, (Key, Option<Name>)>,
    pub(crate) reports: Vec<(usize, TaskReport)>,
    pub(crate) timer: Option<AbortHandle>,
}

impl Registry {
    // Inlined, so that it is built where it stays: it is large.
    #[inline]
    pub(crate) fn new(supervisor: &Supervisor, exchange: Exchange, outer: Option<BackgroundTasks>, admitted: bool) -> Self {
        Self { supervisor: supervisor.clone(), admitted, outer, exchange, slot: Mutex::default() }
    }

    pub(crate) fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing that can panic runs under this lock.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot_mut(&mut self) -> &mut Slot {
        self.slot.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<Exchange> for Registry {
    fn as_ref(&self) -> &Exchange {
        &self.exchange
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Finds tasks only if no response was there to release them.
        if self.slot_mut().collected.is_empty() {
            return;
        }
        for mut task in std::mem::take(&mut self.slot_mut().collected) {
            task.discard();
            if let Some(key) = task.header().key {
                self.supervisor.ledger().end(key, Outcome::Cancelled.figure());
            }
        }
    }
}

impl Slot {
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn rare_if_any(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// The reports of a batch, if its last task has ended.
    pub(crate) fn take_reports_if_over(&mut self) -> Option<Vec<TaskReport>> {
        if !self.released || self.unreported > 0 {
            return None;
        }
        let reports = &mut self.rare_if_any()?.reports;
        reports.sort_by_key(|(index, _)| *index);
        let reports: Vec<_> = std::mem::take(reports).into_iter().map(|(_, report)| report).collect();
        (!reports.is_empty()).then_some(reports)
    }
}

/// Tasks in the order added; one needs no allocation of its own.
#[derive(Default)]
pub(crate) struct Collected {
    first: Option<Task>,
    more: Vec<Task>,
}

impl Collected {
    pub(crate) fn push(&mut self, task: Task) {
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(task);
        } else {
            self.more.push(task);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.first.iter().chain(&self.more)
    }
}

pub(crate) type CollectedIter = std::iter::Chain<std::option::IntoIter<Task>, std::vec::IntoIter<Task>>;

impl IntoIterator for Collected {
    type Item = Task;
    type IntoIter = CollectedIter;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}

impl Extend<Task> for Collected {
    fn extend<I: IntoIterator<Item = Task>>(&mut self, tasks: I) {
        tasks.into_iter().for_each(|task| self.push(task));
    }
}
