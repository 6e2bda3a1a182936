//! Runs the same application on many servers, and checks what its tasks see.
//!
//! See the README of this folder.

mod app;
mod case;
mod client;
mod grpc;
pub mod http3;
mod routes;
mod servers;
mod table;
mod target;
mod tls;

pub use self::{
    app::{App, Control, Event},
    case::{Case, PATIENCE, run},
    client::{Client, Messages, Protocol},
    servers::{Running, SERVERS, Server},
    table::{groups, short_table, table},
    target::{Io, Target},
};
