//! What a supervisor does with the tasks of all requests: it counts, limits, lists, awaits and
//! shuts them down.

#[path = "../common/mod.rs"]
mod common;

mod accounting;
mod fallback;
mod first_come;
#[cfg(feature = "metrics")]
mod gauges;
mod limits;
mod removed;
mod running;
mod shutdown;
mod shutdown_cost;
mod spawn;
mod waiting;
