//! Handing jobs off: when they are written and released, what a client gets where that fails, and what overflows.

#[path = "../support/mod.rs"]
mod support;

mod failures;
mod grpc;
mod modes;
mod overflow;
mod table;
