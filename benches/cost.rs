//! What a request pays for its tasks in time and in instructions, from the call of the service to
//! the end of its last task.
//!
//! - `cargo bench --bench cost` measures all. With `-- short` it takes fewer rounds.
//! - `cargo bench --bench cost -- check` compares the instructions of the layer with those of the
//!   hand-written layer that makes the same promises. It fails if a ratio is above its bound.
//!
//! A number contains the turns of the runtime in which the caller waits for the tasks. Times are
//! medians of rounds. Each round measures all cases, with a heap that starts a little further on. On
//! one thread, a time is the CPU time of the thread, if Linux provides it. On two workers, two
//! callers call at the same time, and a time is how long one request takes its caller. Instructions
//! are counted by valgrind, and are means of several heaps.
//!
//! The layer has no subscriber, except in the row that names one.

#![expect(clippy::cast_precision_loss, reason = "the numbers are small")]

mod cpu_time;
mod figures;
mod plain_layer;
mod same_promises;
mod ways;

use std::{collections::HashMap, env, process::Command, thread, time::Instant};

use figures::{Figures, median, quartiles};
use ways::{
    BARE, BARE_WITH_HEADERS, CURRENT_THREAD, Case, LAYER, MORE_WAYS, SAME_PROMISES, Setting,
    TWO_WORKERS,
};

/// The highest ratios that `check` accepts: the instructions of the layer, divided by those of the
/// hand-written layer with the same promises, each beyond the bare service. For the numbers of
/// tasks in the order of [`Setting::tasks`].
const BOUNDS: [(Setting, &[f64]); 2] = [
    (CURRENT_THREAD[0], &[1.08, 1.09, 1.05, 1.04]),
    (CURRENT_THREAD[1], &[1.11, 1.09, 1.07]),
];

/// The numbers of requests for instructions. The difference of two runs does not contain the costs
/// of the process.
const FEW: usize = 100;
const MANY: usize = 400;

/// How many paddings of the heap a count is the mean of: see [`ways::alone`]. A tokio task is aligned
/// to 128 bytes, and each padding is 16 bytes larger than the one before.
const PADDINGS: usize = 8;

const COLUMNS: [&str; 8] = [
    "",
    "no task",
    "1 task",
    "4 tasks",
    "16 tasks",
    "1 task that waits",
    "4 tasks that wait",
    "16 tasks that wait",
];

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
    if env::args().any(|argument| argument == "check") {
        return check();
    }
    let (rounds, requests) = if figures::is_short() {
        (5, 5_000)
    } else {
        (21, 20_000)
    };
    let mut figures = Figures::of("cost");
    let times = times(rounds, requests);
    for (name, settings, on) in [
        ("cost-time", CURRENT_THREAD, "on the current-thread runtime"),
        ("cost-time-2-workers", TWO_WORKERS, "on two workers"),
    ] {
        let method = format!(
            "Nanoseconds of one request {on}. Medians of {rounds} alternating rounds. A ratio has its quartiles in brackets."
        );
        figures.table(name, &method, &COLUMNS);
        rows(&mut figures, ways::WAYS, settings, |case| {
            median(times[case].iter().copied())
        });
        ratios(&mut figures, settings, |case| &times[case]);
        for setting in settings {
            for case in ways::cases(setting) {
                let time = median(times[&case].iter().copied());
                figures.note(setting.name, case.way, case.tasks, time);
            }
        }
    }
    let has_valgrind = Command::new("valgrind").arg("--version").output().is_ok();
    if has_valgrind {
        let counts: HashMap<_, _> = CURRENT_THREAD
            .into_iter()
            .flat_map(ways::cases)
            .map(|case| (case, [instructions(&case)]))
            .collect();
        let method = format!(
            "Instructions of one request on the current-thread runtime, means of {PADDINGS} runs whose heaps start at different addresses."
        );
        figures.table("cost-instructions", &method, &COLUMNS);
        let all = [ways::WAYS, &[BARE_WITH_HEADERS], MORE_WAYS].concat();
        rows(&mut figures, &all, CURRENT_THREAD, |case| counts[case][0]);
        ratios(&mut figures, CURRENT_THREAD, |case| &counts[case]);
    }
    figures.save();
}

/// Adds a row for the bare service, and one for each way. A cell that was not measured is empty.
fn rows(
    figures: &mut Figures,
    ways: &[&str],
    settings: [Setting; 2],
    value: impl Fn(&Case) -> f64,
) {
    let cases: Vec<_> = settings.into_iter().flat_map(ways::cases).collect();
    for way in [BARE].iter().chain(ways) {
        let cells = columns(settings).map(|(setting, tasks)| {
            cases
                .iter()
                .find(|case| case.setting == setting && case.way == *way && case.tasks == tasks)
                .map_or(String::new(), |case| format!("{:.0}", value(case)))
        });
        figures.row(
            &[(*way).to_owned()]
                .into_iter()
                .chain(cells)
                .collect::<Vec<_>>(),
        );
    }
}

/// Adds a row with the ratios of the layer and of the hand-written layer with the same promises,
/// both beyond the bare service.
fn ratios<'a>(figures: &mut Figures, settings: [Setting; 2], rounds: impl Fn(&Case) -> &'a [f64]) {
    let cells = columns(settings).map(|(setting, tasks)| {
        let [low, middle, high] = quartiles(ratio(setting, tasks, &rounds));
        #[expect(clippy::float_cmp, reason = "a single round is its own quartiles")]
        if low == high {
            format!("{middle:.3}")
        } else {
            format!("{middle:.3} ({low:.3}-{high:.3})")
        }
    });
    let name = "layer : same promises, both beyond the bare service".to_owned();
    figures.row(&[name].into_iter().chain(cells).collect::<Vec<_>>());
}

/// The ratio in each round.
fn ratio<'a>(setting: Setting, tasks: usize, rounds: impl Fn(&Case) -> &'a [f64]) -> Vec<f64> {
    let [layer, same] = [LAYER, SAME_PROMISES].map(|way| Case {
        setting,
        way,
        tasks,
    });
    let bare = rounds(&layer.bare());
    let beyond = rounds(&layer).iter().zip(rounds(&same)).zip(bare);
    beyond
        .map(|((layer, same), bare)| (layer - bare) / (same - bare))
        .collect()
}

fn columns(settings: [Setting; 2]) -> impl Iterator<Item = (Setting, usize)> {
    settings
        .into_iter()
        .flat_map(|setting| setting.tasks().iter().map(move |tasks| (setting, *tasks)))
}

/// Fails if the layer needs too many instructions.
fn check() {
    let mut failures = Vec::new();
    for (setting, bounds) in BOUNDS {
        let bare = Case {
            setting,
            way: BARE,
            tasks: 0,
        };
        let bare = instructions(&bare);
        for (tasks, bound) in setting.tasks().iter().copied().zip(bounds) {
            let [layer, same] = [LAYER, SAME_PROMISES].map(|way| {
                let case = Case {
                    setting,
                    way,
                    tasks,
                };
                instructions(&case) - bare
            });
            let line = format!(
                "{tasks} tasks, {}: layer {layer:.0}, same promises {same:.0}, ratio {:.3}, bound {bound}",
                setting.name,
                layer / same
            );
            println!("{line}");
            if layer / same > *bound {
                failures.push(line);
            }
        }
    }
    assert!(
        failures.is_empty(),
        "the layer needs too many instructions:\n{}",
        failures.join("\n")
    );
}

/// The instructions of one request, the mean of all paddings.
fn instructions(case: &Case) -> f64 {
    let sum: f64 = thread::scope(|scope| {
        let count = |padding| {
            scope.spawn(move || {
                let [few, many] = [FEW, MANY].map(|requests| counted(case, requests, padding));
                (many - few) / (MANY - FEW) as f64
            })
        };
        let counts: Vec<_> = (0..PADDINGS).map(count).collect();
        let counts = counts
            .into_iter()
            .map(|count| count.join().expect("a count"));
        counts.sum()
    });
    sum / PADDINGS as f64
}

fn counted(case: &Case, requests: usize, padding: usize) -> f64 {
    let valgrind = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
    ];
    let log = ways::alone(&valgrind, case, requests, padding).stderr;
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

/// The time of one request in nanoseconds, in each round. Each round measures all cases, so that
/// other load of the machine affects all cases alike.
fn times(rounds: usize, requests: usize) -> HashMap<Case, Vec<f64>> {
    let settings = [CURRENT_THREAD, TWO_WORKERS].concat();
    let cases: Vec<_> = settings.into_iter().flat_map(ways::cases).collect();
    let mut times: HashMap<_, Vec<_>> = HashMap::new();
    for round in 0..rounds {
        for case in &cases {
            let output = ways::alone(&[], case, requests, round).stdout;
            let total: f64 = String::from_utf8_lossy(&output)
                .trim()
                .parse()
                .expect("a number");
            let requests_of_a_caller = requests / case.setting.workers;
            times
                .entry(*case)
                .or_default()
                .push(total / requests_of_a_caller as f64);
        }
    }
    times
}
