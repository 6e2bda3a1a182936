//! The supervisor owns all tasks: it counts, limits, lists, awaits and aborts them.

mod builder;
mod capture;
mod config;
mod guard;
mod limits;
mod observer;
mod owner;
mod report;
mod reporter;
mod scope;
mod shard;
mod shutdown;
mod slots;
mod stats;
mod supervisor;
mod table;
mod task_state;
mod thread_number;
mod unique;

pub use self::{
    builder::SupervisorBuilder,
    capture::{Capture, Scope},
    observer::Observer,
    report::{Busy, RequestReport, ShutdownReport, TaskInfo, TaskReport},
    stats::Stats,
    supervisor::Supervisor,
    task_state::TaskState,
};
pub(crate) use self::{
    guard::TaskGuard,
    limits::Acquire,
    owner::{Owner, Phase},
    reporter::RequestReporter,
    scope::TaskScope,
    slots::Key,
};
