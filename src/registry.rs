//! What a [`BackgroundTasks`](crate::BackgroundTasks) stands for: the tasks of one request, and how far its response is.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    exchange::Exchange,
    hand_off_error::HandOffError,
    moment::Release,
    name::Name,
    order::Order,
    outcome::Outcome,
    queue::Queue,
    report::TaskReport,
    supervisor::Supervisor,
    sync::{Mutex, MutexGuard},
    task::Key,
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
    /// Whether a runner has the sequence, and what joins it.
    pub(crate) in_sequence: bool,
    pub(crate) order: Option<Order>,
    /// How many tasks were filed, and how many of them have no report yet.
    pub(crate) filed: u32,
    pub(crate) unreported: u32,
    pub(crate) before_head: BeforeHead,
    /// What is collected, and what is released and was not yet come to.
    pub(crate) queue: Queue,
    pub(crate) runtime: Option<Handle>,
    rare: Option<Box<Rare>>,
}

/// What most requests do without.
#[derive(Default)]
pub(crate) struct Rare {
    /// What waits for a place, by its place in the order added.
    pub(crate) in_line: BTreeMap<u32, (Key, Option<Name>)>,
    pub(crate) reports: Vec<(u32, TaskReport)>,
    pub(crate) timer: Option<AbortHandle>,
    /// What the request has chosen instead of the supervisor's.
    pub(crate) release: Option<Release>,
    /// Why the head can't tell of success, if a job that it was to wait for was refused.
    pub(crate) refused: Option<HandOffError>,
}

/// Whether a head waits for the jobs that it is to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum BeforeHead {
    /// No layer makes it wait.
    #[default]
    Unknown,
    /// So many layers do.
    Awaited(u8),
    /// It has passed.
    Passed,
}

impl Registry {
    // Inlined, and whole in one place, so that it is built where it stays: it is large.
    #[inline]
    pub(crate) fn shared(
        supervisor: Supervisor,
        exchange: Exchange,
        outer: Option<BackgroundTasks>,
        admitted: bool,
    ) -> Arc<Self> {
        Arc::new(Self { supervisor, admitted, outer, exchange, slot: Mutex::default() })
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
        while let Some(mut task) = self.slot_mut().queue.pop() {
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
