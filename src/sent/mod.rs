//! Tasks that start when the socket took the last byte of their response.
//!
//! By default the tasks of a request start when the server has all of the response. At that time
//! the server may not have written the last bytes: it takes a body of several megabytes at once,
//! and writes it as fast as the client reads. With
//! [`StartOn::LastByteSent`](crate::StartOn::LastByteSent) the tasks wait until the socket took the
//! last byte.
//!
//! # Setup
//!
//! Choose `LastByteSent` for all requests by
//! [`SupervisorBuilder::start_on`](crate::SupervisorBuilder::start_on), or for one request by
//! [`BackgroundTasks::set_start_on`](crate::BackgroundTasks::set_start_on). Then track the
//! connections:
//!
//! - axum (feature `sent-axum`): call `sent::serve(listener, app)` in place of
//!   `axum::serve(listener, app)`.
//! - hyper and hyper-util: wrap the stream in [`SentStream::new`], and wrap the service of the
//!   connection in the layer that [`SentStream::connection`] returns.
//! - tonic (feature `sent-tonic`): wrap each stream of `serve_with_incoming` in
//!   [`SentStream::new`], and add [`SentLayer`] to the server as the outermost layer.
//!
//! Both parts are needed. The wrapped stream sees the bytes. The layer tells a request which
//! connection it came over. A request that passed no such layer is not tracked.
//!
//! Serve each connection in a separate tokio task, as all these servers do. With TLS, wrap the
//! TLS stream: `SentStream::new(acceptor.accept(stream).await?)`.
//!
//! # Guarantees
//!
//! The tasks of a response start after this event:
//!
//! - On a tracked HTTP/1 connection: the first flush after the server dropped the response. hyper
//!   serves one response at a time, and flushes when it has nothing left to write. So by then the
//!   socket took all of the response.
//! - On a tracked HTTP/2 connection, gRPC included: the first flush after the server wrote the
//!   frame that ends the stream. Flushes for other streams do not count.
//! - On a connection that is not tracked: the drop of the body, after the head was sent. The crate
//!   logs a warning once for each supervisor (feature `tracing`).
//!
//! A response that leaves no task does not wait. It is over when the server drops its body, unless
//! the supervisor has observers.
//!
//! Tasks start earlier only after [`start_within`](crate::SupervisorBuilder::start_within), and
//! [shutdown fallbacks](crate::Task::shutdown_fallback) at the end of a shutdown's grace.
//!
//! The socket "took" a byte when the operating system has it. No server knows whether the client
//! reads it. With TLS the flush goes through TLS to the socket, so the same holds.
//!
//! Layers outside of [`BackgroundLayer`](crate::BackgroundLayer) may buffer, compress or replace
//! the body. The crate follows the response that the server gets. A response that a layer makes
//! after the server has dropped that one ends as interrupted.
//!
//! ## How HTTP/2 responses are followed
//!
//! HTTP/2 sends many responses at once. So the crate puts a guard into the frame that ends the
//! stream, and the server drops the guard when it has written the frame. The guard is in the bytes
//! of the last data, or in a value of the trailers or of the head. If the body tells its end only
//! by `None`, the guard is in the empty data frame that the server sends for the `None`.
//!
//! No frame is added, and no frame changes. The value of a header or trailer that has a guard is
//! sent as a literal that is never indexed, like a sensitive value.
//!
//! Some last frames can have no guard:
//!
//! - data of another type than [`bytes::Bytes`] (axum and tonic use `Bytes`),
//! - trailers without a value, or a head without a body and without a value,
//! - the tunnel of a `CONNECT` request.
//!
//! The tasks of such a response start after these steps: the server drops the body, writes all
//! frames that have a guard, reads until there is nothing more to read, and flushes. If the client
//! has stopped reading, the last byte may not be written by then.
//!
//! # Connections that die
//!
//! If the connection dies before the last byte, or the client resets the stream, the response ends
//! as [`EndKind::Interrupted`](crate::EndKind::Interrupted).
//! [`ResponseEnd::bytes_sent`](crate::ResponseEnd::bytes_sent) says how many bytes of the body's
//! data the socket took at least:
//!
//! | connection | `bytes_sent` of a response that is not whole |
//! |---|---|
//! | HTTP/1 with a declared length | exact |
//! | HTTP/1, chunked | too low by the chunk framing that the socket did not take |
//! | HTTP/2, gRPC | the data frames that were written whole and flushed; `None` without guards |
//! | not tracked, or another `StartOn` | `None` |
//!
//! If the layers of several supervisors follow a response over HTTP/2, only the innermost one guards its
//! data.
//!
//! Over HTTP/1, the number is not exact if a layer outside of `BackgroundLayer` changes the length
//! of the data, but the socket took at least this much. With TLS the number can be too low by the
//! bytes that TLS still held when the connection died: at most 64 KiB with the defaults of rustls.
//!
//! You can also wrap the socket below TLS. Then `bytes_sent` over HTTP/1 counts encrypted bytes,
//! including the head.
//!
//! There is one exception over HTTP/2. A client can reset a stream whose data the socket did not
//! take yet. If the server has since then written at least as much data of other streams, or writes
//! it next, the response can end as [`EndKind::Complete`](crate::EndKind::Complete).

#[cfg(feature = "sent-axum")]
mod axum_serve;
mod body;
mod connect_info;
mod connection;
mod delivery;
mod entry;
mod frames;
mod guard;
#[cfg(all(test, background_loom))]
mod models;
mod pending;
mod service;
mod state;
mod stream;
#[cfg(feature = "sent-tonic")]
mod tonic_connected;
mod write_progress;

#[cfg(feature = "sent-axum")]
pub use self::axum_serve::{
    SentIncoming, SentListener, SentMakeFuture, SentMakeService, SentRouter, SentRouterFuture,
    serve,
};
pub use self::{
    body::SentBody,
    connect_info::SentConnectInfo,
    connection::SentConnection,
    service::{SentFuture, SentLayer, SentService},
    stream::SentStream,
};
