//! What the documentation says is true: the tables of the README and of the guides, the order of
//! the folders, and the promises of the layer that the benchmarks compare the crate with.

mod architecture;
mod middleware;
mod readme;
mod same_promises;
mod table;
mod tasks;
