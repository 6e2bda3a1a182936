//! How much later a head comes by each mode: all modes side by side, over one connection, with no other load. Each request waits
//! until all is over that the one before has left.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tower_background::BoxError;

use crate::{
    books::Seen,
    client::Client,
    engine::Place,
    plan::{Engine, Mode, Special},
    process::Process,
};

/// In turns, so that what the machine does beside falls on all.
const TURNS: usize = 10;

/// One after the other, in each turn.
const REQUESTS: usize = 100;

const MODES: [Mode; 4] = [Mode::Bare, Mode::Lossy, Mode::Durable, Mode::Held];

pub const HEADER: &str = "\
| engine | mode | requests | time to the head, median | 99 of 100 |
|---|---|---|---|---|";

pub async fn run(engine: Engine, place: &Place, folder: &Path, table: &mut Vec<String>) -> Result<(), BoxError> {
    let (mut web, port) = Process::start("web", place, folder, &["0"]).await?;
    let mut client = Client::connect(port.parse()?).await?;
    let mut times = MODES.map(|_| Vec::new());
    let mut id = 0;
    for _ in 0..=TURNS {
        for (mode, times) in MODES.into_iter().zip(&mut times) {
            for _ in 0..REQUESTS {
                let path = format!("/{mode}/{}/{id}", Special::Nothing.path());
                id += 1;
                let begun = Instant::now();
                let mut head = None;
                let at = |seen| {
                    if seen == Seen::Head {
                        head = Some(begun.elapsed());
                    }
                };
                client.get(&path, at).await?;
                times.extend(head);
                // What is done after one answer is not to delay the next.
                client.get("/idle", |_| {}).await?;
            }
        }
    }
    web.kill().await?;
    for (mode, mut times) in MODES.into_iter().zip(times) {
        // The first turn was there to warm up.
        let mut times = times.split_off(REQUESTS);
        times.sort_unstable();
        let at = |part: usize| Millis(times[times.len() * part / 100]);
        table.push(format!("| {engine} | {mode} | {} | {} | {} |", times.len(), at(50), at(99)));
    }
    Ok(())
}

struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ms", self.0.as_secs_f64() * 1_000.0)
    }
}
