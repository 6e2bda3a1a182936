//! [`Task`]: one piece of work that a request leaves for later, and what describes it: its options
//! before it runs, and its outcome after that.

mod condition;
mod context;
mod limit;
mod name;
mod order;
mod outcome;
mod output;
mod refused;
mod start_on;
mod task;
mod work;

pub use self::{
    condition::When, context::TaskContext, limit::Limit, order::Order, outcome::Outcome,
    output::TaskOutput, refused::Refused, start_on::StartOn, task::Task,
};
pub(crate) use self::{
    name::Name,
    work::{BlockingFunction, WorkResult},
};
