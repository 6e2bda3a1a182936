//! [`Refusal`]: why a task was not taken.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The supervisor was shut down.
    Closed,
    /// Its job is to be written before the head, and no layer has the head wait.
    NoHead,
    /// Its job is to be written before the head, and its condition is one of the end.
    ConditionOfEnd,
}

impl Refusal {
    /// Logs that a task of this name, of a request of this path, was refused.
    pub(crate) fn log(self, task: Option<&str>, path: &str) {
        let task = task.unwrap_or_default();
        match self {
            Self::Closed => crate::log::error!(task = task, path = path, "a task was refused: the supervisor is closed"),
            Self::NoHead | Self::ConditionOfEnd => {
                crate::log::error!(task = task, path = path, why = %self, "a task was refused: its job can't be handed off");
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the supervisor is closed",
            Self::NoHead => "no head waits for it, wrap the service in `BackgroundLayer::hand_off`",
            Self::ConditionOfEnd => "only the end of the response can tell whether its condition holds",
        })
    }
}
