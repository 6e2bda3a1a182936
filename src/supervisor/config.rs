//! [`Config`]: what a supervisor was built with.

use std::{fmt, time::Duration};

use tokio::runtime::Handle;

use super::{capture::Capture, observer::Observers};
use crate::task::{Order, StartOn};

/// What a supervisor was built with.
pub(crate) struct Config {
    pub(super) max_concurrent: Option<usize>,
    pub(super) max_blocking: Option<usize>,
    pub(super) max_pending: Option<usize>,
    pub(super) observers: Observers,
    pub(super) abort_after: Duration,
    pub(crate) captures: Vec<Box<dyn Capture>>,
    pub(crate) child_spans: bool,
    pub(crate) task_timeout: Option<Duration>,
    pub(crate) start_within: Option<Duration>,
    pub(crate) order: Order,
    pub(crate) start_on: StartOn,
    pub(crate) runtime: Option<Handle>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_concurrent: None,
            max_blocking: None,
            max_pending: None,
            observers: Observers::default(),
            abort_after: Duration::from_secs(1),
            captures: Vec::new(),
            child_spans: false,
            task_timeout: None,
            start_within: None,
            order: Order::default(),
            start_on: StartOn::default(),
            runtime: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_concurrent", &self.max_concurrent)
            .field("max_blocking", &self.max_blocking)
            .field("max_pending", &self.max_pending)
            .field("task_timeout", &self.task_timeout)
            .field("start_within", &self.start_within)
            .field("abort_after", &self.abort_after)
            .field("order", &self.order)
            .field("start_on", &self.start_on)
            .finish_non_exhaustive()
    }
}
