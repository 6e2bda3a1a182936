//! Checks promises of the crate through its public API: tasks run beside each other and leave others their turns, a request keeps
//! little memory, limits are fair, and a panic of foreign code loses no task.

#[path = "../common/mod.rs"]
mod common;

mod alone;
mod api;

mod beside;
mod ends;
mod fairness;
mod fallback;
mod first_come;
mod memory;
mod panics;
mod removed;
mod shutdown_cost;
mod zero_timeout;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts what is allocated, for the tests of memory.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
