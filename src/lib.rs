//! Tower middleware that runs tasks after the response was sent.

mod batch;
mod body;
mod builder;
mod context;
mod current;
mod end;
mod error;
mod future;
mod gate;
mod job;
mod lane;
mod layer;
mod lease;
mod ledger;
mod log;
mod marker;
mod meter;
mod name;
mod observer;
mod order;
mod outcome;
mod panics;
mod progress;
mod registry;
mod release;
mod report;
mod request;
mod room;
mod service;
mod shutdown;
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

#[cfg(feature = "metrics")]
pub use self::meter::describe_metrics;
pub use self::{
    body::ResponseBody,
    builder::SupervisorBuilder,
    context::TaskContext,
    end::{BodyError, End, ResponseEnd},
    error::{BoxError, MissingLayer},
    future::ResponseFuture,
    layer::BackgroundLayer,
    observer::Observer,
    order::Order,
    outcome::Outcome,
    report::{BatchReport, RunningTask, TaskReport, TaskState},
    request::BackgroundTasksExt,
    service::Background,
    shutdown::ShutdownReport,
    stats::Stats,
    supervisor::Supervisor,
    task::{Task, TaskOutput},
    tasks::{BackgroundTasks, defer},
    when::When,
};
