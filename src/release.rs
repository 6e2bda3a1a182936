//! The release of a request's tasks: by the end of its response, or before that by `release_after`.

use std::sync::Arc;

use tokio::runtime::{Handle, Id};

use crate::{
    exchange::Head,
    meter,
    order::Order,
    parked,
    progress::{Progress, Verdict},
    registry::{Registry, Slot},
    report::TaskState,
    runner::Batch,
    sync::MutexGuard,
    tasks::BackgroundTasks,
};

impl BackgroundTasks {
    /// Ends the response, if nobody can ask how it ended. Returns whether that is so and this can serve another request.
    #[inline]
    pub(crate) fn end_unwatched(&mut self) -> bool {
        let Some(registry) = Arc::get_mut(&mut self.registry) else { return false };
        // With no other handle, nobody can add a task any more.
        if !registry.is_untouched() || !registry.supervisor().observers().is_empty() {
            return false;
        }
        registry.supervisor().close_response(registry.admitted);
        registry.retire();
        true
    }

    /// Ends the response and releases the tasks. [`Lease`](crate::lease::Lease) calls this, or the above, once.
    pub(crate) fn end(self, progress: &mut Progress, verdict: Option<Verdict>) {
        let unobserved = self.supervisor().observers().is_empty();
        let at_once = progress.is_written_next();
        let verdict = verdict.unwrap_or_else(|| progress.verdict(self.exchange()));
        let (ended, rare) = progress.end(verdict);
        self.exchange().note_end(ended, rare);
        if !unobserved {
            let end = self.response_end(false);
            self.supervisor().observers().tell(|observer| observer.response_ended(&end));
        }
        self.release_collected(false, at_once);
        self.supervisor().close_response(self.registry.admitted);
    }

    /// Lets go of the request, if nobody else can ask for it any more. Returns whether this can serve another one.
    pub(crate) fn retire(&mut self) -> bool {
        Arc::get_mut(&mut self.registry).is_some_and(Registry::retire_used)
    }

    /// Notes that the head is ready, where a release may come before the end.
    #[inline]
    pub(crate) fn note_head(&self, head: Head, grpc_status: Option<i32>) {
        if self.exchange().note_head(head, grpc_status) {
            self.head_is_known();
        }
    }

    /// Notes what the body has yielded, where that is of use, and the head as well if that is new.
    #[inline]
    pub(crate) fn note_bytes(&self, bytes: u64, head: impl FnOnce() -> Option<Head>) {
        if self.exchange().note_bytes(bytes, head) {
            self.head_is_known();
        }
    }

    #[cold]
    fn head_is_known(&self) {
        self.arm(&mut self.registry.slot());
    }

    /// Releases the tasks of a response that may still be open.
    pub(crate) fn release_unfinished(&self) {
        self.exchange().note_unfinished();
        self.release_collected(true, false);
    }

    /// In which order the tasks run, and where.
    #[inline]
    fn chosen<'a>(&'a self, slot: &'a Slot) -> (Order, Option<&'a Handle>) {
        let policy = self.supervisor().policy();
        let runtime = policy.runtime.as_ref().or(slot.runtime.as_ref());
        (slot.order.unwrap_or(policy.order), runtime)
    }

    /// The runtime that the tasks run on.
    #[inline(never)]
    pub(crate) fn runtime(&self) -> Option<Id> {
        let chosen = self.chosen(&self.registry.slot()).1.map(Handle::id);
        // Where none was chosen, they run on the one that was current at their release, and is while they are polled.
        chosen.or_else(|| Some(Handle::try_current().ok()?.id()))
    }

    /// The one place where collected tasks are released.
    #[inline]
    fn release_collected(&self, unfinished: bool, at_once: bool) {
        let mut slot = self.registry.slot();
        if std::mem::replace(&mut slot.released, true) {
            return;
        }
        if let Some(timer) = slot.rare_if_any().and_then(|rare| rare.timer.take()) {
            timer.abort();
        }
        let released = slot.queue.len();
        if released > 0 {
            if unfinished {
                slot.queue.for_each(|task| task.header_mut().unfinished = true);
            }
            self.supervisor().ledger().release(&mut slot.queue);
            self.start(released, at_once, slot);
            meter::moved(Some(TaskState::Collected), Some(TaskState::Waiting), released);
        } else if let Some(reports) = slot.take_reports_if_over() {
            drop(slot);
            self.batch_ended(reports);
        }
    }

    /// Has so many released tasks started that were queued last, in the order that is set.
    #[inline]
    pub(crate) fn start(&self, released: u32, at_once: bool, mut slot: MutexGuard<'_, Slot>) {
        let (order, runtime) = self.chosen(&slot);
        let runtime = runtime.map(Handle::id);
        if order != Order::Concurrent && std::mem::replace(&mut slot.in_sequence, true) {
            return;
        }
        drop(slot);
        let batch = Batch::new(self.clone(), released, order, at_once);
        match runtime {
            Some(runtime) => parked::give(batch, runtime).unwrap_or_else(|batch| self.spawn(batch)),
            None => self.spawn(batch),
        }
    }

    /// Hands the tasks to a runner of their own. Without a runtime they are cancelled.
    #[inline(never)]
    fn spawn(&self, batch: Batch) {
        let runtime = self.chosen(&self.registry.slot()).1.cloned();
        if let Some(runtime) = runtime.or_else(|| Handle::try_current().ok()) {
            batch.spawn(&runtime);
        }
    }

    /// Starts the timer of `release_after`, if there is one to start: there is a head, and a task to release.
    pub(crate) fn arm(&self, slot: &mut Slot) {
        let policy = self.supervisor().policy();
        let Some(after) = policy.release_after else { return };
        let runtime = slot.runtime.clone().or_else(|| policy.runtime.clone());
        let Some((head, runtime)) = self.exchange().head().zip(runtime) else { return };
        if slot.released || slot.queue.is_empty() || slot.rare().timer.is_some() {
            return;
        }
        // A time that can't be told never comes.
        let Some(deadline) = head.at.checked_add(after) else { return };
        let registry = Arc::downgrade(&self.registry);
        let timer = runtime.spawn(async move {
            tokio::time::sleep_until(deadline).await;
            if let Some(registry) = registry.upgrade() {
                Self { registry }.release_unfinished();
            }
        });
        slot.rare().timer = Some(timer.abort_handle());
    }
}
