//! What a [`BackgroundTasks`](crate::BackgroundTasks) stands for: the tasks of one request, and how far its response is.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicU64},
};

use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    end::ResponseEnd,
    job::Filed,
    ledger::Key,
    name::Name,
    order::Order,
    outcome::Outcome,
    panics::quietly,
    progress::{HeadFacts, RequestFacts},
    released::Released,
    report::{BatchReport, TaskReport},
    supervisor::Supervisor,
    tasks::BackgroundTasks,
};

pub(crate) struct Registry {
    pub(crate) supervisor: Supervisor,
    /// Whether the request came before the supervisor was shut down.
    pub(crate) admitted: bool,
    /// The registry of another supervisor's layer, which this one has replaced in the request's extensions.
    pub(crate) outer: Option<BackgroundTasks>,
    pub(crate) request: RequestFacts,
    pub(crate) head: OnceLock<HeadFacts>,
    /// What the body has yielded, for a release that comes before its end.
    pub(crate) bytes: AtomicU64,
    /// What was known at a release before the end.
    pub(crate) unfinished: OnceLock<Box<ResponseEnd>>,
    pub(crate) end: OnceLock<ResponseEnd>,
    slot: Mutex<Slot>,
}

/// The part of a registry that changes.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) released: bool,
    pub(crate) order: Option<Order>,
    pub(crate) collected: Vec<Filed>,
    /// What is released and waits for its turn in a sequence, and whether a runner is at it.
    pub(crate) sequence: VecDeque<Filed>,
    pub(crate) in_sequence: bool,
    /// What is released and waits for a place, by its place in the order added.
    pub(crate) in_line: Vec<(usize, Key, Option<Name>)>,
    /// How many tasks were filed, and how many of them have no report yet.
    pub(crate) filed: usize,
    pub(crate) unreported: usize,
    pub(crate) reports: Vec<(usize, TaskReport)>,
    pub(crate) runtime: Option<Handle>,
    pub(crate) timer: Option<AbortHandle>,
}

impl Registry {
    pub(crate) fn new(supervisor: &Supervisor, request: RequestFacts, outer: Option<BackgroundTasks>, admitted: bool) -> Self {
        Self {
            supervisor: supervisor.clone(),
            admitted,
            outer,
            request,
            head: OnceLock::new(),
            bytes: AtomicU64::new(0),
            unfinished: OnceLock::new(),
            end: OnceLock::new(),
            slot: Mutex::default(),
        }
    }

    pub(crate) fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing that can panic runs under this lock.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slot_mut(&mut self) -> &mut Slot {
        self.slot.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Finds tasks only if no response was there to release them.
        for Filed { task, key, .. } in std::mem::take(&mut self.slot_mut().collected) {
            quietly("a task's captured value", || drop(task));
            self.supervisor.ledger().end(key, Outcome::Cancelled.figure());
        }
    }
}

impl Slot {
    /// The reports of a batch, if its last task has ended.
    pub(crate) fn take_reports_if_over(&mut self) -> Option<Vec<TaskReport>> {
        if !self.released || self.unreported > 0 || self.reports.is_empty() {
            return None;
        }
        self.reports.sort_by_key(|(index, _)| *index);
        Some(std::mem::take(&mut self.reports).into_iter().map(|(_, report)| report).collect())
    }
}

impl BackgroundTasks {
    /// The next task of a sequence; after the last, a new one needs a new runner.
    pub(crate) fn next_in_sequence(&self) -> Option<Filed> {
        let mut slot = self.registry.slot();
        let next = slot.sequence.pop_front();
        slot.in_sequence = next.is_some();
        next
    }

    /// Notes that a task waits for a place, so that it can be taken back.
    pub(crate) fn stand_in_line(&self, index: usize, key: Key, name: Option<Name>) {
        self.registry.slot().in_line.push((index, key, name));
    }

    /// Notes that a task waits no more. Returns whether it was not taken back.
    pub(crate) fn leave_line(&self, index: usize) -> bool {
        let mut slot = self.registry.slot();
        let found = slot.in_line.iter().position(|(other, ..)| *other == index);
        found.map(|position| slot.in_line.swap_remove(position)).is_some()
    }

    /// Tells the observers how a task ended, and how the batch did if it was its last.
    pub(crate) fn report(&self, index: usize, report: TaskReport) {
        self.supervisor().observers().tell(|observer| observer.task_ended(&report));
        let mut slot = self.registry.slot();
        slot.unreported -= 1;
        slot.reports.push((index, report));
        let reports = slot.take_reports_if_over();
        drop(slot);
        if let Some(reports) = reports {
            self.batch_ended(reports);
        }
    }

    pub(crate) fn batch_ended(&self, tasks: Vec<TaskReport>) {
        // A batch of tasks that were all taken back before the end has no release of its own.
        let release = tasks.iter().find_map(|task| task.release.clone()).unwrap_or_else(|| Released::now(self.clone()));
        let report = BatchReport { release, tasks };
        self.supervisor().observers().tell(|observer| observer.batch_ended(&report));
    }
}
