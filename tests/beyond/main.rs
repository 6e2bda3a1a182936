//! What goes beyond a request: WebSockets, streams that stop in order, the caller's context, unique and limited tasks.

#[path = "../common/mod.rs"]
mod common;

#[cfg(unix)]
mod stopping;
mod websocket;
