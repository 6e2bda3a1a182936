//! How often a request allocates for its tasks, from the call of the service to the end of its last task.
//!
//! `cargo bench --bench allocations`. Each figure is what a request needs beyond one of the bare service. With
//! `--features tracing` the rows are the layer without a subscriber, and under one that wants all spans. The futures of the layer
//! written by hand are boxed: its list is of futures of any type.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod by_hand;
mod figures;
mod same_promises;
mod ways;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use figures::Figures;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUESTS: usize = 10_000;

fn main() {
    let allocations = || {
        let stats = ALLOCATOR.stats();
        (stats.allocations + stats.reallocations) as u64
    };
    if let Some((way, tasks, requests)) = ways::wanted() {
        println!("{}", ways::run(&way, tasks, requests, allocations));
        return;
    }
    let mut figures = Figures::of(if cfg!(feature = "tracing") { "allocations-tracing" } else { "allocations" });
    ways::table(&mut figures, "allocations", |way, tasks| {
        let output = ways::alone(&[], way, tasks, REQUESTS).stdout;
        let count: u64 = String::from_utf8_lossy(&output).trim().parse().expect("a number");
        count as f64 / REQUESTS as f64
    });
    figures.save();
}
