//! What the middleware does around a service: it gives each request a registry, sees how its
//! response ends, passes everything through unchanged, copes with misuse, and keeps little memory.

#[path = "../common/mod.rs"]
mod common;

mod auto_traits;
mod bodies;
mod client;
mod lengths;
mod memory;
mod misuse;
mod nested;
mod registry;
