//! What a supervisor does with the tasks of all requests: it counts, limits, lists, awaits and shuts them down.

#[path = "../common/mod.rs"]
mod common;

mod accounting;
mod limits;
mod running;
mod shutdown;
mod spawn;
mod waiting;
