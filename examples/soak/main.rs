//! Attacks a server whose requests leave tasks, and balances the books.
//!
//! Clients over HTTP/1.1 and HTTP/2 abort at every stage, reset, stall and read slowly; handlers and bodies fail, panic and
//! hang; tasks fail, panic, hang, block and add tasks; and in the middle of it all the supervisor is shut down, again and
//! again. The tasks keep books of their own. In the end no task may be missing or doubled, no response open, and no memory
//! held; otherwise the exit code says so.
//!
//! ```text
//! cargo run --release --example soak -- [--requests N] [--seconds S] [--seed X]
//! ```
//!
//! In every second round an observer is told of each task, and the two accounts are held against each other task by task; in
//! the others there is no observer, which is another path through the crate, and the sums are held against each other.

#![allow(unreachable_pub, reason = "the modules are one program's")]

mod books;
mod dice;
mod field;
mod http1;
mod http2;
mod memory;
mod options;
mod plan;
mod round;
mod server;
mod total;
mod work;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use crate::{options::Options, plan::Plan, total::Total};

/// The memory that a run may take beyond what it had after its first quarter, in kilobytes: caches of the allocator and of the
/// runtime that a later round happens to fill. A task or a registry that stayed would come to more within a million requests.
const GROWTH: u64 = 48 * 1024;

static UNEXPECTED_PANICS: AtomicU64 = AtomicU64::new(0);

/// How long a client waits: for ever, as good as, where an answer must come; and not long where none will.
pub(crate) const fn patience(plan: &Plan) -> Duration {
    if plan.hangs() { plan.wait } else { Duration::from_secs(30) }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    // What the plans have panic does so without calling this.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        UNEXPECTED_PANICS.fetch_add(1, SeqCst);
        default(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let failed = runtime.block_on(run(&options));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn run(options: &Options) -> bool {
    let begun = Instant::now();
    let deadline = options.seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let rounds = (options.requests / 50_000).max(6);
    println!("soak: {} requests in {rounds} rounds, --seed {}", options.requests, options.seed);
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
            println!("memory: {warm} kB after the first quarter, {now} kB at the end, {GROWTH} kB more would be allowed");
            if now > warm + GROWTH {
                total.wrong.push("memory grew".to_owned());
            }
        }
        None => println!("memory: the system does not tell"),
    }
    if UNEXPECTED_PANICS.load(SeqCst) > 0 {
        total.wrong.push(format!("{} panics that were not planned", UNEXPECTED_PANICS.load(SeqCst)));
    }
    if options.requests >= 10_000 && deadline.is_none() {
        total.check_variety();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} requests in {seconds:.1} s, --seed {}", total.calls, options.seed);
    for wrong in total.wrong.iter().take(50) {
        println!("WRONG: {wrong}");
    }
    println!("{}", if total.wrong.is_empty() { "the books balance" } else { "the books do NOT balance" });
    !total.wrong.is_empty()
}
