//! Tower middleware that runs tasks after the response was sent.

mod batch;
mod body;
mod context;
mod current;
mod end;
mod error;
mod future;
mod job;
mod layer;
mod lease;
mod ledger;
mod log;
mod marker;
mod outcome;
mod panics;
mod progress;
mod request;
mod service;
mod stats;
mod supervisor;
mod task;
mod tasks;
mod when;
mod work;

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
mod tonic;

pub use self::{
    body::ResponseBody,
    context::TaskContext,
    end::{BodyError, End, ResponseEnd},
    error::{BoxError, MissingLayer},
    future::ResponseFuture,
    layer::BackgroundLayer,
    outcome::Outcome,
    request::BackgroundTasksExt,
    service::Background,
    stats::Stats,
    supervisor::{Supervisor, SupervisorBuilder},
    task::{Task, TaskOutput},
    tasks::{BackgroundTasks, defer},
    when::When,
};
