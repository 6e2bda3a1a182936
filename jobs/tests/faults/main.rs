//! What a network, a disk, a database and an impatient client do to queues and workers.

#![allow(
    clippy::pedantic,
    reason = "a test is read more often than it is called"
)]

#[path = "../support/mod.rs"]
mod support;

mod campaign;
mod clients;
mod disk;
mod large;
mod network;
mod process;
mod processes;
mod server;
