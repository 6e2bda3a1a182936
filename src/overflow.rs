//! Whether a task is handed off where it can't run to its end.

use crate::{supervisor::Supervisor, task::Task, when::When};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// It runs here or not at all.
    #[default]
    Never,
    Possible,
    /// It is not to run here.
    Due,
}

impl Task {
    /// Notes that the task is not to run here, if it can be handed off instead. Returns whether it can.
    pub(crate) fn overflow(&mut self) -> bool {
        let possible = self.header().overflow != Overflow::Never;
        if possible {
            self.header_mut().overflow = Overflow::Due;
        }
        possible
    }

    /// Whether the task can be handed off before the end of its response. A function of the user's own is not asked before that.
    pub(crate) fn overflows_unfinished(&self, has_head: bool) -> bool {
        let header = self.header();
        header.overflow != Overflow::Never
            && match header.when {
                When::Responded => has_head,
                When::Always => true,
                When::Complete | When::Success | When::Matches(_) => false,
            }
    }

    /// Whether the task is handed off, as it could not run to its end here: there are too many, or the grace of a shutdown is
    /// over. Once it is, it stays so.
    pub(crate) fn overflows(&mut self, supervisor: &Supervisor) -> bool {
        match self.header().overflow {
            Overflow::Never => false,
            Overflow::Possible if !supervisor.ledger().is_overfull() && !supervisor.is_cancelled() => false,
            Overflow::Possible | Overflow::Due => self.overflow(),
        }
    }
}
