//! The features `metrics` and `tracing`, and the examples as processes.

#[path = "../common/mod.rs"]
mod common;

#[cfg(unix)]
mod examples;
mod metrics;
#[cfg(unix)]
mod sigterm;
mod tour;
mod tracing;
