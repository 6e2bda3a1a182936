//! The features `metrics` and `tracing`, also if foreign code panics in them, and the examples as
//! processes.

#[path = "../common/mod.rs"]
mod common;

#[cfg(unix)]
mod examples;
mod metrics;
mod panics;
#[cfg(unix)]
mod sigterm;
mod tour;
mod tracing;
