//! Measures pushes beside plain `INSERT` statements, workers, start latencies, and reads of large
//! queues, in one run on both engines. Prints the table of `README.md`.
//!
//! `cargo bench -p tower-background-jobs --all-features`. It starts a PostgreSQL server, or uses the
//! database of `DATABASE_URL`. `-- pushes "idle worker"` measures only the rows with one of these
//! texts. `SECONDS_EACH` is how long each kind of push is measured, 3 by default.

#![allow(
    clippy::pedantic,
    reason = "a test is read more often than it is called"
)]

mod database;
mod measure;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use self::{
    database::Database,
    measure::{latency, pushes, reads, work},
};

const PAYLOAD: &str = "ada@example.org, a welcome mail in the language of the user";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo gives `--bench`. A test run gives nothing, and measures nothing.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let filters = arguments
        .into_iter()
        .filter(|argument| argument != "--bench");
    let seconds = std::env::var("SECONDS_EACH").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    let each = Duration::from_secs(seconds.unwrap_or(3));
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be created");
    let table = Table {
        sqlite: Database::sqlite(folder.path()).await,
        postgres: Database::postgres().await,
        filters: filters.collect(),
    };
    println!("| measured | SQLite | PostgreSQL |\n|---|---|---|");
    for clients in [1, 10, 100] {
        let row = format!("pushes/s, {clients} at a time (plain INSERT; ratio; p99)");
        table
            .row(&row, async |database| pushes(database, clients, each).await)
            .await;
    }
    for places in [16, 64, 256] {
        let row = format!("empty jobs/s of one worker with {places} places");
        table
            .row(&row, async |database| work(database, places).await)
            .await;
    }
    table
        .row(
            "push to start, idle worker of the same engine: p50 / p95",
            async |database| {
                latency(
                    database.queue("latency").await,
                    database.queue("latency").await,
                )
                .await
            },
        )
        .await;
    table
        .row(
            "push to start, idle worker of another engine: p50 / p95",
            async |database| {
                latency(
                    database.queue("latency").await,
                    database.other_queue("latency").await,
                )
                .await
            },
        )
        .await;
    table
        .row(
            "read of 16: queue otherwise empty / 100,000 delayed and 1,000,000 archived",
            reads,
        )
        .await;
}

struct Table {
    sqlite: Database,
    postgres: Option<Database>,
    /// Parts of the rows to measure. If there are none, all are measured.
    filters: Vec<String>,
}

impl Table {
    async fn row(&self, label: &str, measure: impl AsyncFn(&Database) -> String) {
        let is_wanted = |filter: &String| label.contains(filter.as_str());
        if !self.filters.is_empty() && !self.filters.iter().any(is_wanted) {
            return;
        }
        let left = measure(&self.sqlite).await;
        let right = match &self.postgres {
            Some(postgres) => measure(postgres).await,
            None => "-".to_owned(),
        };
        println!("| {label} | {left} | {right} |");
    }
}
