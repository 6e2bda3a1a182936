//! How the tasks of one request run: beside each other, their order, timeouts, failures, runtime,
//! handles and captured contexts.

#[path = "../common/mod.rs"]
mod common;

mod beside;
mod capture;
mod conditions;
mod failures;
mod fairness;
mod handle;
mod order;
mod runtime;
mod timeouts;
mod zero_timeout;
