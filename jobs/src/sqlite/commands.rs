//! What the writer can be asked to do.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::{
    Error,
    engine::{Settled, Settlement},
    message::{Claim, Headers, Message, NewMessage},
    queue_name::QueueName,
};

/// An action, and the one who waits for its outcome.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) action: Action,
    pub(super) reply: oneshot::Sender<Result<Outcome, Error>>,
}

#[derive(Debug)]
pub(super) enum Action {
    Create {
        queue: QueueName,
    },
    Send {
        queue: QueueName,
        message: NewMessage,
    },
    Release {
        queue: QueueName,
        id: i64,
    },
    Discard {
        queue: QueueName,
        id: i64,
    },
    Read {
        queue: QueueName,
        max: usize,
        invisible: Duration,
    },
    Extend {
        queue: QueueName,
        claims: Vec<Claim>,
        invisible: Duration,
    },
    Settle {
        queue: QueueName,
        settled: Vec<Settled>,
    },
    Restore {
        queue: QueueName,
        id: i64,
        headers: Headers,
    },
    Hurry {
        queue: QueueName,
        id: i64,
    },
    Remove {
        queue: QueueName,
        id: i64,
    },
    Purge {
        queue: QueueName,
        age: Duration,
    },
}

/// What an action gave. The caller knows which of these it is.
#[derive(Debug)]
pub(super) enum Outcome {
    Nothing,
    Id(Option<i64>),
    Ids(Vec<i64>),
    Messages(Vec<Message>),
    Changed(bool),
    Count(u64),
}

impl Outcome {
    pub(super) fn id(self) -> Option<i64> {
        if let Self::Id(id) = self { id } else { None }
    }

    pub(super) fn ids(self) -> Vec<i64> {
        if let Self::Ids(ids) = self {
            ids
        } else {
            Vec::new()
        }
    }

    pub(super) fn messages(self) -> Vec<Message> {
        if let Self::Messages(messages) = self {
            messages
        } else {
            Vec::new()
        }
    }

    pub(super) fn changed(self) -> bool {
        matches!(self, Self::Changed(true))
    }

    pub(super) fn count(self) -> u64 {
        if let Self::Count(count) = self {
            count
        } else {
            0
        }
    }
}

impl Command {
    /// Whether nobody waits for the outcome any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Tells the caller the outcome, after the commit.
    pub(super) fn answer(self, outcome: Result<Outcome, Error>) {
        // The caller may be gone by now.
        drop(self.reply.send(outcome));
    }
}

impl Action {
    /// Whether workers should look for messages afterwards.
    pub(super) fn wakes(&self) -> bool {
        match self {
            Self::Send { .. }
            | Self::Release { .. }
            | Self::Restore { .. }
            | Self::Hurry { .. } => true,
            // A message that was returned may be the next one.
            Self::Settle { settled, .. } => settled
                .iter()
                .any(|settled| matches!(settled.end, Settlement::Return(..))),
            _ => false,
        }
    }

    /// Whether it is a promise that must survive a power cut. A read, an extension or a delete that
    /// gets lost then leads to one more run.
    pub(super) fn is_promise(&self) -> bool {
        !matches!(
            self,
            Self::Read { .. } | Self::Extend { .. } | Self::Settle { .. }
        )
    }

    /// Whether it needs no transaction around it, if it is alone.
    pub(super) fn is_one_statement(&self) -> bool {
        match self {
            Self::Settle { settled, .. } => settled
                .iter()
                .all(|settled| matches!(settled.end, Settlement::Delete)),
            Self::Remove { .. } | Self::Restore { .. } => false,
            _ => true,
        }
    }
}
