//! Puts a server under load and faults, and checks that no task is lost.
//!
//! Clients over HTTP/1.1 and HTTP/2 leave at every stage, reset, stall and read slowly. Handlers
//! and bodies fail, panic and hang. Tasks fail, panic, hang, block and add tasks. In the middle of
//! each round the supervisor is shut down. The tasks count what happens to them, without the
//! supervisor. At the end no task may be missing or counted twice, no response may be open, and no
//! memory may be leaked. Otherwise the exit code says so.
//!
//! ```text
//! cargo run --release --example soak -- [--requests N] [--seconds S] [--seed X]
//! ```
//!
//! Every second round has an observer, and compares each task with its report. The other rounds
//! have none, so that tasks run without the code for observers, and compare the sums.

#![allow(unreachable_pub, reason = "the modules are one program's")]

mod account;
mod dice;
mod http1;
mod http2;
mod memory;
mod options;
mod plan;
mod round;
mod server;
mod shared;
mod total;
mod work;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::{options::Options, plan::Plan, total::Total};

/// How much the memory may grow after the first quarter of a run, in kilobytes. Caches of the
/// allocator and of the runtime may still fill then. A leaked task or request would take more
/// within a million requests.
const GROWTH: u64 = 48 * 1024;

static UNEXPECTED_PANICS: AtomicU64 = AtomicU64::new(0);

/// How long a client waits: very long if a response must come, and only shortly if none will.
pub(crate) const fn patience(plan: &Plan) -> Duration {
    if plan.hangs() {
        plan.wait
    } else {
        Duration::from_secs(30)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    // Planned panics do not call the hook.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        UNEXPECTED_PANICS.fetch_add(1, SeqCst);
        default(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let failed = runtime.block_on(run(&options));
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

async fn run(options: &Options) -> bool {
    let begun = Instant::now();
    let deadline = options
        .seconds
        .map(|seconds| begun + Duration::from_secs(seconds));
    let rounds = (options.requests / 50_000).max(6);
    println!(
        "soak: {} requests in {rounds} rounds, --seed {}",
        options.requests, options.seed
    );
    let mut total = Total::default();
    let mut warm = None;
    for number in 0..rounds {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            println!("the time is over");
            break;
        }
        let share = options.requests / rounds + u64::from(number < options.requests % rounds);
        let round = round::run(number, share, options.seed.wrapping_add(number), deadline).await;
        let resident = memory::resident();
        println!("{round}, {} MB", resident.unwrap_or_default() / 1024);
        for wrong in round.wrong.iter().take(20) {
            println!("  WRONG: {wrong}");
        }
        total.add(round);
        if number < rounds.div_ceil(4) {
            warm = resident;
        }
    }
    println!("\n{total}");
    let now = memory::resident();
    match warm.zip(now) {
        Some((warm, now)) => {
            println!(
                "memory: {warm} kB after the first quarter, {now} kB at the end, {GROWTH} kB more would be allowed"
            );
            if now > warm + GROWTH {
                total.wrong.push("memory grew".to_owned());
            }
        }
        None => println!("memory: unknown on this system"),
    }
    if UNEXPECTED_PANICS.load(SeqCst) > 0 {
        total.wrong.push(format!(
            "{} panics that were not planned",
            UNEXPECTED_PANICS.load(SeqCst)
        ));
    }
    if options.requests >= 10_000 && deadline.is_none() {
        total.check_variety();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} requests in {seconds:.1} s, --seed {}",
        total.calls, options.seed
    );
    for wrong in total.wrong.iter().take(50) {
        println!("WRONG: {wrong}");
    }
    println!(
        "{}",
        if total.wrong.is_empty() {
            "all numbers agree"
        } else {
            "the numbers do NOT agree"
        }
    );
    !total.wrong.is_empty()
}
