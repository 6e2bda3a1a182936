//! The registry of a request: it collects tasks, and starts them when the response is over.

mod add;
mod current;
mod early_start;
mod ext;
mod handle;
#[cfg(all(test, background_loom))]
mod models;
mod queued;
mod run;
mod sequence;
mod spawn;
mod start;
mod state;
mod tasks;

#[cfg(feature = "tonic")]
pub(crate) use self::ext::background_tasks;
pub(crate) use self::{
    current::{Entered, RequestScope},
    state::RequestState,
};
pub use self::{
    ext::BackgroundTasksExt,
    handle::TaskHandle,
    tasks::{BackgroundTasks, defer},
};
