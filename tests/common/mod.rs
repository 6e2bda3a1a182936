//! What the tests share: services that record how their responses end, servers on free ports,
//! clients, and bodies that follow a script.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "each test file uses a part of it"
)]

mod alone;
#[cfg(feature = "axum")]
mod app;
mod around;
mod call;
mod client;
mod events;
mod example;
mod held;
mod multiplexed;
mod probe;
mod raw;
mod recorder;
mod script;
mod server;
mod witness;

pub(crate) use self::alone::alone;
pub use self::{
    alone::{one_thread, run_alone, workers},
    around::Around,
    call::{Call, answered},
    client::{chunk, get, open, text},
    events::{Entry, Events, Fields},
    example::{ended, output, output_with, start, start_with, terminate},
    held::Held,
    multiplexed::{Multiplexed, data, next_data, rest, unreleased_data},
    probe::{NUMBERED, Probed, Taken, numbered, probed},
    raw::Raw,
    recorder::{Recorder, outcome_counts, outcomes},
    script::{Script, Scripted, Step},
    server::{Servable, Server},
    witness::{Course, Seen, Witness},
};

use std::time::Duration;

/// The upper bound for anything that a test waits for. Nothing waits for it in a run that passes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits an event that must come.
pub async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(PATIENCE, event)
        .await
        .expect("the event that the test waits for should come")
}

/// Awaits a state that must come and that nobody tells of, by asking for it.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(asking).await;
}

/// Waits until the tasks of an open response would have started, if that were possible.
pub async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}
