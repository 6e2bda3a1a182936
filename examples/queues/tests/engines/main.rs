//! What each module keeps, with real engines, and processes that are killed.
//!
//! A test is skipped if its engine is not installed, and says so. With `TOWER_BACKGROUND_NO_SKIP`
//! it fails instead.

#![allow(
    clippy::pedantic,
    reason = "a test is read more often than it is called"
)]

mod support;

mod apalis;
mod graphile;
mod guide;
mod idempotency;
mod jetstream;
mod outbox;
