//! `StartOn::LastByteSent`: tasks start when the socket took the last byte of their response.

#[path = "../common/mod.rs"]
mod common;

mod allocations;
mod bytes;
mod full_socket;
mod gated;
mod heads;
mod last_byte;
mod layers;
mod replaced;
#[cfg(all(feature = "sent-axum", feature = "sent-tonic"))]
mod servers;
mod tls;
mod tracked;
#[cfg(feature = "tracing")]
mod warning;
