//! The numbers of a benchmark, as text under `target/figures`. `cargo run --example plot` draws
//! them.

use std::{
    fmt::Write,
    fs,
    num::NonZero,
    path::Path,
    thread::available_parallelism,
    time::{SystemTime, UNIX_EPOCH},
};

/// What one bench has measured.
pub(crate) struct Figures {
    bench: &'static str,
    text: String,
}

impl Figures {
    pub(crate) fn of(bench: &'static str) -> Self {
        Self {
            bench,
            text: format!("{}\t{}\n", today(), machine()),
        }
    }

    /// Notes a number: what was measured, in which way, and with how many tasks or threads.
    pub(crate) fn note(&mut self, what: &str, way: &str, at: usize, figure: f64) {
        writeln!(self.text, "{what}\t{way}\t{at}\t{figure:.3}").expect("a string takes all");
    }

    pub(crate) fn save(self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/figures");
        fs::create_dir_all(&directory).expect("`target` can be written");
        fs::write(directory.join(self.bench).with_extension("tsv"), self.text)
            .expect("`target` can be written");
    }
}

/// The processor's name, where Linux tells it, and how many cores of it there are.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name);
    let cores = available_parallelism().map_or(1, NonZero::get);
    format!(
        "{}, {cores} cores",
        name.unwrap_or("unknown processor").trim()
    )
}

/// The date in UTC, by the rule that a year of 365.2425 days begins in March.
fn today() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later than 1970");
    let days = now.as_secs() / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (day, month) = (
        day - (153 * march + 2) / 5 + 1,
        if march < 10 { march + 3 } else { march - 9 },
    );
    format!(
        "{}-{month:02}-{day:02}",
        era * 400 + year + u64::from(month <= 2)
    )
}
