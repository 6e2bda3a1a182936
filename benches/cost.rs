//! What a request pays for its tasks in instructions and in time, from the call of the service to the end of its last task.
//!
//! `cargo bench --bench cost`; instructions are counted where valgrind is. Each figure is what a request needs beyond one of the
//! bare service, with the turns of the runtime in which it waits for its tasks: a runner that yields once adds a turn. With
//! `--features tracing` the rows are the layer without a subscriber, and under one that wants all spans; the first is as
//! dear because axum, by its default features, turns on the `log` feature of `tracing`: a span then asks for a logger.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod by_hand;
mod figures;
mod same_promises;
mod ways;

use std::{collections::HashMap, process::Command, time::Instant};

use figures::Figures;
use ways::{BARE, BARE_WITH_HEADERS, TASKS, WAYS};

/// For the time of a request.
const REQUESTS: usize = 20_000;
/// Each of them measures all ways, so that what else the machine does hits them alike; the best counts.
const ROUNDS: usize = 15;
/// For instructions: the difference of two runs is free of what the process costs itself.
const FEW: usize = 1_000;
const MANY: usize = 3_000;

fn main() {
    if let Some((way, tasks, requests)) = ways::wanted() {
        let started = Instant::now();
        let probe = || u64::try_from(started.elapsed().as_nanos()).expect("centuries");
        println!("{}", ways::run(&way, tasks, requests, probe));
        return;
    }
    println!("{}\n", figures::machine());
    let mut figures = Figures::of(if cfg!(feature = "tracing") { "cost-tracing" } else { "cost" });
    if Command::new("valgrind").arg("--version").output().is_ok() {
        ways::table(&mut figures, "instructions", |way, tasks| {
            (instructions(way, tasks, MANY) - instructions(way, tasks, FEW)) / (MANY - FEW) as f64
        });
    }
    let times = times();
    ways::table(&mut figures, "nanoseconds", |way, tasks| times[&(way.to_owned(), tasks)]);
    figures.save();
}

fn instructions(way: &str, tasks: usize, requests: usize) -> f64 {
    let valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let log = ways::alone(&valgrind, way, tasks, requests).stderr;
    let log = String::from_utf8_lossy(&log);
    let (_, collected) = log.split_once("Collected : ").expect("callgrind tells what it has counted");
    collected.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a number")
}

/// The time of one request in ns, by way and tasks.
fn times() -> HashMap<(String, usize), f64> {
    let all = WAYS.iter().flat_map(|way| TASKS.map(|tasks| (*way, tasks)));
    let all: Vec<_> = all.chain([(BARE, 0), (BARE_WITH_HEADERS, 0)]).collect();
    let mut best = HashMap::new();
    for _ in 0..ROUNDS {
        for (way, tasks) in &all {
            let output = ways::alone(&[], way, *tasks, REQUESTS).stdout;
            let total: u64 = String::from_utf8_lossy(&output).trim().parse().expect("a number");
            let time = total as f64 / REQUESTS as f64;
            best.entry(((*way).to_owned(), *tasks)).and_modify(|best: &mut f64| *best = best.min(time)).or_insert(time);
        }
    }
    best
}
