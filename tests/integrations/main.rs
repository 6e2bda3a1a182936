//! The features `metrics` and `tracing`, the examples as processes, and the service of the README.

#[path = "../common/mod.rs"]
mod common;

mod metrics;
#[cfg(unix)]
mod readme;
#[cfg(unix)]
mod sigterm;
mod tour;
mod tracing;
