//! What the middleware does around a service: it gives each request a registry, sees how its response ends, passes everything
//! through unchanged, and copes with misuse.

#[path = "../common/mod.rs"]
mod common;

mod auto_traits;
mod bodies;
mod client;
mod lengths;
mod misuse;
mod nested;
mod registry;
