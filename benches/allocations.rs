//! How often a request allocates for its tasks, from the call of the service to the end of its last
//! task.
//!
//! `cargo bench --bench allocations`. Each number is what a request needs beyond a request of the
//! bare service. The layer has no subscriber, except in the row that names one. The futures of the
//! hand-written layers are boxed, because their lists contain futures of any type.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod figures;
mod plain_layer;
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
    if let Some((case, requests)) = ways::wanted() {
        println!("{}", ways::run(&case, requests, allocations));
        return;
    }
    let mut figures = Figures::of(if cfg!(feature = "tracing") {
        "allocations-tracing"
    } else {
        "allocations"
    });
    for setting in ways::CURRENT_THREAD {
        ways::table(&mut figures, "allocations", setting, |case| {
            let output = ways::alone(&[], case, REQUESTS).stdout;
            let count: u64 = String::from_utf8_lossy(&output)
                .trim()
                .parse()
                .expect("a number");
            count as f64 / REQUESTS as f64
        });
    }
    figures.save();
}
