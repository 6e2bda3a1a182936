//! How responses end on real servers, seen by clients that other people wrote.
//!
//! Each case compares what its task saw with a cell of the table in `tests/README.md`.

#[path = "../common/mod.rs"]
mod common;

mod boxed;
mod ends;
#[cfg(feature = "tonic")]
mod grpc;
mod http1;
mod http1_cut;
mod http2;
mod http2_cut;
mod http2_failures;
mod isolation;
mod layers;
mod placement;
mod responses;
mod table;
mod unchanged;
mod unchanged_http2;
