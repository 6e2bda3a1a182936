//! How responses end on real servers, with clients that are not ours: case by case, as `tests/README.md` tells.
//!
//! The table there is the expectation: a case compares what its task saw with its cell.

#[path = "../support/mod.rs"]
mod support;

mod boxed;
#[cfg(feature = "tonic")]
mod grpc;
mod http1;
mod http1_cut;
mod http2;
mod http2_cut;
mod http2_failures;
mod isolation;
#[cfg(feature = "axum")]
mod layers;
#[cfg(all(feature = "axum", feature = "tower"))]
mod placement;
mod table;
mod unchanged;
mod unchanged_http2;
