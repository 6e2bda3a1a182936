//! Kills a web process and its worker at every stage of a request, under load, and balances the books of requests and jobs.
//!
//! ```text
//! cargo run --release --example campaign --features axum,postgres,sqlite -- [--kills N] [--engine sqlite|postgres|both] [--latency]
//! ```
//!
//! The web process hands a job off with each request, by one of the three modes of `HandOff`. One request is made to stay at a
//! stage for good; while the others pass through all of them, the process is killed by SIGKILL, N times for each engine, mode and
//! stage. So is the worker, in the middle of a job. The worker notes each job that it has done in a file of its own, and the
//! clients note how far each answer got. In the end each request that was answered with a success must have its job done in the
//! two durable modes; otherwise the exit code says so. What the lossy one loses is counted.
//!
//! `--latency` measures instead how much later a head comes by each mode.
//!
//! This program is all of the processes: it starts itself. PostgreSQL is started in a folder for temporary files; where there is
//! none, that is told, and SQLite alone is under attack.

#![allow(unreachable_pub, reason = "the modules are one program's")]

mod books;
mod client;
mod engine;
mod latency;
mod options;
mod plan;
#[path = "../../tests/support/postgres.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod postgres;
mod process;
mod round;
mod web;
mod worker;

use std::{
    fs, io,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use tower_background::BoxError;

use crate::{
    books::Books,
    engine::{Place, Store},
    options::{Options, Role},
    plan::{Engine, cells},
    postgres::Postgres,
};

/// The upper bound for anything that is waited for: what takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The upper bound for all jobs to be done, once the last process was killed.
const DRAINED: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Options::parse(std::env::args().skip(1)) {
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
        Ok(Role::Web { place, folder, pause }) => web::run(&place, folder, pause).await.map(|()| true),
        Ok(Role::Worker { place, folder }) => worker::run(&place, folder).await.map(|()| true),
        Ok(Role::Conductor(options)) => conduct(&options).await,
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("WRONG: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn conduct(options: &Options) -> Result<bool, BoxError> {
    let mut table = Vec::new();
    let mut is_right = true;
    for engine in options.engines() {
        let folder = Folder::new(engine)?;
        // Stopped when this engine is done with.
        let mut _server = None;
        let place = match engine {
            Engine::Sqlite => Place::Sqlite(folder.0.join("jobs.db")),
            Engine::Postgres => {
                let Some(server) = Postgres::start().await else {
                    println!("skipped: {engine}");
                    continue;
                };
                let socket = server.options().get_socket().cloned().ok_or("the server has a socket")?;
                _server = Some(server);
                Place::Postgres(socket)
            }
        };
        let store = Store::open(&place).await?;
        if options.latency {
            latency::run(engine, &place, &folder.0, &mut table).await?;
        } else {
            is_right &= attack(options, engine, &place, &store, &folder, &mut table).await?;
        }
    }
    println!("\n{}", if options.latency { latency::HEADER } else { books::HEADER });
    for row in table {
        println!("{row}");
    }
    if !options.latency {
        println!("\n{}", if is_right { "the books balance" } else { "the books do NOT balance" });
    }
    Ok(is_right)
}

/// All stages of all modes with one engine. Returns whether what was promised is kept.
async fn attack(
    options: &Options,
    engine: Engine,
    place: &Place,
    store: &Store,
    folder: &Folder,
    table: &mut Vec<String>,
) -> Result<bool, BoxError> {
    let begun = Instant::now();
    let books = Arc::new(Books::default());
    let mut campaign = round::Campaign::new(place, &folder.0, Arc::clone(&books)).await?;
    for (number, cell) in cells().enumerate() {
        for kill in 0..options.kills {
            // Otherwise what a round waits for would come after all that others have left.
            store.caught_up().await?;
            campaign.round(number, cell, kill % 3 == 0).await.map_err(|error| format!("{engine}, {cell}: {error}"))?;
        }
    }
    let attacked = begun.elapsed();
    let waiting = Instant::now();
    store.drained(DRAINED).await?;
    let waited = waiting.elapsed();
    let done = worker::done(&folder.0)?;
    let mut is_right = campaign.early.is_empty();
    for id in &campaign.early {
        println!("WRONG: {engine}: held job {id} had begun before its response was over");
    }
    for (number, cell) in cells().enumerate() {
        let row = books.balance(number, &done);
        if cell.mode.is_durable() && !row.lost.is_empty() {
            println!("WRONG: {engine}, {cell}: lost, though answered with a success: {:?}", row.lost);
            is_right = false;
        }
        table.push(format!("| {engine} | {} | {} | {} | {row} |", cell.mode, cell.stage, options.kills));
    }
    println!(
        "{engine}: {} requests, {} jobs done; {} kills of the web process and {} of the worker in {attacked:.0?}, drained after {waited:.0?}",
        books.requests(),
        done.len(),
        options.kills * cells().count(),
        campaign.worker_kills,
    );
    Ok(is_right)
}

/// A folder for one engine's files, which goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new(engine: Engine) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("campaign-{}-{engine}", std::process::id()));
        fs::create_dir_all(folder.join("begun"))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
