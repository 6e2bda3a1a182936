//! The release of a request's tasks: by the end of its response, or before that by `release_after`.

use std::sync::{Arc, MutexGuard, atomic::Ordering};

use tokio::runtime::Handle;

use crate::{
    batch::Batch,
    end::{BodyError, End, ResponseEnd},
    job::Filed,
    meter,
    order::Order,
    progress::Progress,
    registry::Slot,
    released::Released,
    report::TaskState,
    tasks::BackgroundTasks,
};

impl BackgroundTasks {
    /// Ends the response and releases the tasks. [`Lease`](crate::lease::Lease) calls this, once.
    pub(crate) fn end(mut self, (kind, error): (End, Option<BodyError>), mut progress: Progress) {
        let admitted = self.registry.admitted;
        let unobserved = self.supervisor().observers().is_empty();
        if let Some(registry) = Arc::get_mut(&mut self.registry) {
            if unobserved && registry.slot_mut().collected.is_empty() {
                return registry.supervisor.close_response(admitted);
            }
        }
        let end = ResponseEnd::new(kind, self.request(), self.registry.head.get(), progress.bytes())
            .with_error(error)
            .with_trailers(progress.take_trailers(), progress.grpc_status());
        let end = self.registry.end.get_or_init(|| end);
        self.supervisor().observers().tell(|observer| observer.response_ended(end));
        self.release();
        self.supervisor().close_response(admitted);
    }

    /// The one place where collected tasks are released.
    fn release(&self) {
        let mut slot = self.registry.slot();
        if std::mem::replace(&mut slot.released, true) {
            return;
        }
        if let Some(timer) = slot.timer.take() {
            timer.abort();
        }
        let collected = std::mem::take(&mut slot.collected);
        if !collected.is_empty() {
            let released = collected.len();
            self.supervisor().ledger().release(collected.iter().map(|filed| filed.key));
            self.start(collected, false, slot);
            meter::moved(Some(TaskState::Collected), Some(TaskState::Waiting), released);
        } else if let Some(reports) = slot.take_reports_if_over() {
            drop(slot);
            self.batch_ended(reports);
        }
    }

    /// Has released tasks run, in the order that is set.
    pub(crate) fn start(&self, released: Vec<Filed>, late: bool, mut slot: MutexGuard<'_, Slot>) {
        let policy = self.supervisor().policy();
        let release = Released::now(self.clone());
        let order = slot.order.unwrap_or(policy.order);
        let batch = if order == Order::Concurrent {
            Batch::together(release, released, late)
        } else {
            slot.sequence.extend(released);
            if std::mem::replace(&mut slot.in_sequence, true) {
                return;
            }
            Batch::sequence(release, order, late)
        };
        let runtime = policy.runtime.clone().or_else(|| slot.runtime.clone());
        drop(slot);
        batch.spawn(runtime.or_else(|| Handle::try_current().ok()).as_ref());
    }

    /// Starts the timer of `release_after`, if there is one to start: there is a head, and a task to release.
    pub(crate) fn arm(&self, slot: &mut Slot) {
        let Some(after) = self.supervisor().policy().release_after else { return };
        let Some((head, runtime)) = self.registry.head.get().zip(slot.runtime.as_ref()) else { return };
        if slot.released || slot.timer.is_some() || slot.collected.is_empty() {
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
        slot.timer = Some(timer.abort_handle());
    }

    fn release_unfinished(&self) {
        let registry = &*self.registry;
        let bytes = registry.bytes.load(Ordering::Relaxed);
        registry
            .unfinished
            .get_or_init(|| Box::new(ResponseEnd::new(End::Unfinished, &registry.request, registry.head.get(), bytes)));
        self.release();
    }
}
