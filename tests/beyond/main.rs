//! What lasts longer than a request, or concerns several requests: web sockets, streams that stop
//! in order, the caller's context, unique tasks and limited tasks.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod axum_server;
mod context;
mod limit;
#[cfg(unix)]
mod stopping;
mod unique;
mod websocket;
