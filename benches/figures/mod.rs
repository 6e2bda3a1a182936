//! The results of a bench: Markdown tables, and numbers for the plot. They lie under
//! `target/figures`, from where `cargo run --example plot` copies them into the documentation.

use std::{
    fmt::Write,
    fs,
    num::NonZero,
    path::Path,
    thread::available_parallelism,
    time::{SystemTime, UNIX_EPOCH},
};

/// Prints what one bench has measured, and saves it.
pub(crate) struct Figures {
    bench: &'static str,
    numbers: String,
    tables: Vec<(&'static str, String)>,
}

impl Figures {
    pub(crate) fn of(bench: &'static str) -> Self {
        println!("{}", machine());
        Self {
            bench,
            numbers: format!("{}\t{}\n", today(), machine()),
            tables: Vec::new(),
        }
    }

    /// Notes a number for the plot: what was measured, for which way to leave tasks, and with how
    /// many tasks.
    #[allow(dead_code, reason = "most benches have no plot")]
    pub(crate) fn note(&mut self, what: &str, way: &str, at: usize, number: f64) {
        writeln!(self.numbers, "{what}\t{way}\t{at}\t{number:.3}").expect("a string takes all");
    }

    /// Starts a table. All columns but the first contain numbers. `method` says in a sentence how
    /// they were measured.
    pub(crate) fn table(&mut self, name: &'static str, method: &str, header: &[&str]) {
        println!("\n{method}\n");
        let origin = format!("{method} Measured on {}, {}.\n\n", today(), machine());
        self.tables.push((name, origin));
        self.row(header);
        self.line(&format!("|---|{}", "---:|".repeat(header.len() - 1)));
    }

    pub(crate) fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        let cells: Vec<_> = cells.iter().map(AsRef::as_ref).collect();
        self.line(&format!("| {} |", cells.join(" | ")));
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        let (_, table) = self.tables.last_mut().expect("a table was started");
        writeln!(table, "{line}").expect("a string takes all");
    }

    pub(crate) fn save(self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/figures");
        fs::create_dir_all(&folder).expect("`target` can be written");
        let numbers = (format!("{}.tsv", self.bench), self.numbers);
        let tables = self.tables.into_iter();
        for (name, text) in tables
            .map(|(name, text)| (format!("{name}.md"), text))
            .chain([numbers])
        {
            fs::write(folder.join(name), text).expect("`target` can be written");
        }
    }
}

/// The lower quartile, the median and the upper quartile.
pub(crate) fn quartiles(numbers: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut numbers: Vec<_> = numbers.into_iter().collect();
    numbers.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| numbers[(numbers.len() * quarter / 4).min(numbers.len() - 1)])
}

pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    quartiles(numbers)[1]
}

/// A ratio of neighbouring rounds: the median, and the quartiles in brackets.
#[allow(dead_code, reason = "not all benches compare rounds")]
pub(crate) fn ratio(ones: &[f64], others: &[f64]) -> String {
    let ratios = ones.iter().zip(others).map(|(one, other)| one / other);
    let [low, middle, high] = quartiles(ratios);
    format!("{middle:.3} ({low:.3}-{high:.3})")
}

/// Whether the bench should take a short time, for numbers that are less exact: `cargo bench
/// --bench .. -- short`.
pub(crate) fn is_short() -> bool {
    std::env::args().any(|argument| argument == "short")
}

/// The processor's name, where Linux provides it, and its number of cores.
fn machine() -> String {
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
