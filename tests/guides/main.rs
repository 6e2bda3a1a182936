//! What the README and the guides say in tables is what happens.

mod middleware;
mod readme;
mod table;
mod tasks;
