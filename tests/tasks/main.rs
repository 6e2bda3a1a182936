//! How the tasks of one request run: their order, timeouts, failures, runtime, handles and captured contexts.

#[path = "../common/mod.rs"]
mod common;

mod capture;
mod conditions;
mod failures;
mod handle;
mod order;
mod runtime;
mod timeouts;
