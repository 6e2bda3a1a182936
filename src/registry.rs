//! What a [`BackgroundTasks`](crate::BackgroundTasks) stands for: the tasks of one request, and how far its response is.

use std::{collections::BTreeMap, sync::PoisonError};

use tokio::{runtime::Handle, task::AbortHandle, time::Instant};

use crate::{
    exchange::Exchange,
    ledger::Filer,
    moment::Release,
    name::Name,
    order::Order,
    outcome::Outcome,
    queue::Queue,
    report::TaskReport,
    supervisor::Supervisor,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::Key,
    tasks::BackgroundTasks,
};

/// It serves one request, and then another one if nobody has it any more.
pub(crate) struct Registry {
    /// It is there while the registry serves a request.
    supervisor: Option<Supervisor>,
    /// Whether the request came before the supervisor was shut down.
    pub(crate) admitted: bool,
    /// The registry of another supervisor's layer, which this one has replaced in the request's extensions.
    pub(crate) outer: Option<BackgroundTasks>,
    pub(crate) exchange: Exchange,
    /// Whether the tasks wait for the last byte. Changed under the lock of the slot, and read without it.
    waits_for_sent: AtomicBool,
    slot: Mutex<Slot>,
}

/// The part of a registry that changes.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) released: bool,
    /// Whether a task was added, or an order was chosen.
    pub(crate) touched: bool,
    /// Whether a runner has the sequence, and what joins it.
    pub(crate) in_sequence: bool,
    pub(crate) order: Option<Order>,
    /// How many tasks were filed, and how many of them have no report yet.
    pub(crate) filed: u32,
    pub(crate) unreported: u32,
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
}

impl Registry {
    /// One that serves no request yet.
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            supervisor: None,
            admitted: false,
            outer: None,
            exchange: Exchange::new(started),
            waits_for_sent: AtomicBool::new(false),
            slot: Mutex::default(),
        }
    }

    /// Takes up the service of a request.
    #[inline]
    pub(crate) fn serve(&mut self, supervisor: &Supervisor, admitted: bool, outer: Option<&BackgroundTasks>) {
        self.waits_for_sent = AtomicBool::new(supervisor.policy().release == Release::Sent);
        self.supervisor = Some(supervisor.clone());
        self.admitted = admitted;
        if outer.is_some() {
            self.outer = outer.cloned();
        }
    }

    /// Whether no task was added, and nothing was chosen.
    #[inline]
    pub(crate) fn is_untouched(&mut self) -> bool {
        !self.slot_mut().touched
    }

    /// Lets go of all that is a request's, also where tasks were added. Returns whether it can serve another.
    pub(crate) fn retire_used(&mut self) -> bool {
        let slot = self.slot_mut();
        if !slot.queue.is_empty() {
            return false;
        }
        (slot.released, slot.in_sequence, slot.order, slot.runtime) = (false, false, None, None);
        (slot.touched, slot.filed, slot.unreported) = (false, 0, 0);
        if slot.rare.is_some() {
            slot.rare = None;
        }
        self.exchange.forget_end();
        self.retire();
        true
    }

    /// Lets go of all that is a request's, so that an untouched one can serve another.
    #[inline]
    pub(crate) fn retire(&mut self) {
        self.exchange.forget();
        self.outer = None;
        self.supervisor = None;
    }

    #[inline]
    pub(crate) fn supervisor(&self) -> &Supervisor {
        self.supervisor.as_ref().expect("a registry serves a request while it is in use")
    }

    pub(crate) fn choose(&self, release: Release) {
        // Whoever chooses in time does so before the body ends; what orders the two orders this as well.
        self.waits_for_sent.store(release == Release::Sent, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn waits_for_sent(&self) -> bool {
        self.waits_for_sent.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing that can panic runs under this lock.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot_mut(&mut self) -> &mut Slot {
        self.slot.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filer for Registry {
    fn exchange(&self) -> &Exchange {
        &self.exchange
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
                self.supervisor().ledger().end(key, Outcome::Cancelled.figure());
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
