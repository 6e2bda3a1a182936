//! [`Released`]: what the tasks that were released together have in common.

use tokio::time::Instant;

use crate::{end::ResponseEnd, supervisor::Supervisor, tasks::BackgroundTasks};

/// What tasks that were released together have in common: their registry, the time, and the end that released them.
#[derive(Debug, Clone)]
pub(crate) struct Released {
    tasks: BackgroundTasks,
    at: Instant,
    unfinished: bool,
}

impl Released {
    pub(crate) fn now(tasks: BackgroundTasks) -> Self {
        let unfinished = !tasks.is_over();
        Self { tasks, at: Instant::now(), unfinished }
    }

    pub(crate) const fn tasks(&self) -> &BackgroundTasks {
        &self.tasks
    }

    pub(crate) const fn at(&self) -> Instant {
        self.at
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        self.tasks.supervisor()
    }

    pub(crate) fn end(&self) -> &ResponseEnd {
        self.tasks.known_end(self.unfinished).expect("an end is known before tasks are released")
    }
}
