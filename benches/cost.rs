//! What a request pays for its tasks in instructions and in time, from the call of the service to
//! the end of its last task.
//!
//! `cargo bench --bench cost`. Instructions are counted if valgrind is installed. Each number is
//! what a request needs beyond a request of the bare service. It contains the turns of the runtime
//! in which the caller waits for the tasks. Times are medians of rounds, and each round measures
//! all cases. On one thread, a time is the CPU time of the thread, if Linux provides it. On two
//! workers, two callers call at the same time, and a time is what one request takes its caller.
//!
//! The layer has no subscriber, except in the row that names one. With `--no-default-features` the
//! layer is measured without the feature `tracing`.

#![expect(clippy::cast_precision_loss, reason = "the figures are small")]

mod cpu_time;
mod figures;
mod plain_layer;
mod same_promises;
mod ways;

use std::{collections::HashMap, process::Command, time::Instant};

use figures::Figures;
use ways::{CURRENT_THREAD, Case, Setting, TWO_WORKERS};

/// The number of requests for a time.
const REQUESTS: usize = 20_000;
/// Each round measures all cases, so that other load of the machine affects all cases alike.
const ROUNDS: usize = 21;
/// The numbers of requests for instructions. The difference of two runs does not contain the costs
/// of the process.
const FEW: usize = 1_000;
const MANY: usize = 3_000;

fn main() {
    if let Some((case, requests)) = ways::wanted() {
        let started = Instant::now();
        let time = || match case.setting.workers {
            1 => cpu_time::cpu_time().unwrap_or_else(|| started.elapsed()),
            _ => started.elapsed(),
        };
        let probe = || u64::try_from(time().as_nanos()).expect("centuries");
        println!("{}", ways::run(&case, requests, probe));
        return;
    }
    println!("{}\n", figures::machine());
    let tracing = cfg!(feature = "tracing");
    let mut figures = Figures::of(if tracing { "cost-tracing" } else { "cost" });
    if Command::new("valgrind").arg("--version").output().is_ok() {
        for setting in CURRENT_THREAD {
            ways::table(&mut figures, "instructions", setting, |case| {
                (instructions(case, MANY) - instructions(case, FEW)) / (MANY - FEW) as f64
            });
        }
    }
    // A subscriber of this thread would not see the tasks on other workers.
    let mut settings = CURRENT_THREAD.to_vec();
    settings.extend(TWO_WORKERS.into_iter().filter(|_| !tracing));
    let times = times(&settings);
    for setting in settings {
        ways::table(&mut figures, "nanoseconds", setting, |case| {
            median(&times[case])
        });
    }
    figures.save();
}

fn instructions(case: &Case, requests: usize) -> f64 {
    let valgrind = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
    ];
    let log = ways::alone(&valgrind, case, requests).stderr;
    let log = String::from_utf8_lossy(&log);
    let (_, collected) = log
        .split_once("Collected : ")
        .expect("callgrind prints what it has counted");
    collected
        .split_whitespace()
        .next()
        .and_then(|count| count.parse().ok())
        .expect("a number")
}

/// The time of one request in ns, in each round.
fn times(settings: &[Setting]) -> HashMap<Case, Vec<f64>> {
    let cases: Vec<_> = settings.iter().copied().flat_map(ways::cases).collect();
    let mut times: HashMap<_, Vec<_>> = HashMap::new();
    for _ in 0..ROUNDS {
        for case in &cases {
            let output = ways::alone(&[], case, REQUESTS).stdout;
            let total: u64 = String::from_utf8_lossy(&output)
                .trim()
                .parse()
                .expect("a number");
            let requests_of_a_caller = REQUESTS / case.setting.workers;
            times
                .entry(*case)
                .or_default()
                .push(total as f64 / requests_of_a_caller as f64);
        }
    }
    times
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}
