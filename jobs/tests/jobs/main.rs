//! What queues and workers do, on both engines.

#![allow(
    clippy::pedantic,
    reason = "a test is read more often than it is called"
)]

#[path = "../support/mod.rs"]
mod support;

mod attempts;
mod docs;
mod held;
mod observers;
mod operations;
mod program;
mod push;
mod worker;
