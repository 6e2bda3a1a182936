//! Guides, one for each thing that you may want to do.
//!
//! In the repository the guides are the files in `docs/guides/`. All their code is compiled and run.
//!
//! | guide | read it to |
//! |---|---|
//! | [axum], [tonic], [hyper] | add the layer to your server, and solve problems |
//! | [streams] | use tasks with downloads, event streams and WebSockets |
//! | [middleware] | find the place of the layer among your other layers |
//! | [testing] | test handlers and their tasks without sleeping |
//! | [shutdown] | stop without losing tasks, with Kubernetes and systemd |
//! | [observability] | see tasks in logs, metrics, alerts and an admin page |
//! | [retries] | repeat work that can fail for a short time |
//! | [context] | take Sentry, OpenTelemetry or a task-local value into tasks |
//! | [last_byte] | start tasks when the socket took the last byte |
//! | [moving] | come from `tokio::spawn`, FastAPI, Next.js, Laravel or Rack |

#![allow(
    clippy::doc_markdown,
    reason = "the guides are prose, and name products"
)]

/// Declares one module for each guide. If the code of a guide needs a feature, its module needs that
/// feature too. docs.rs has all features.
macro_rules! guides {
    ($($(#[$attribute:meta])* $name:ident, $file:literal;)*) => {
        $(
            $(#[$attribute])*
            #[doc = include_str!(concat!("../docs/guides/", $file))]
            pub mod $name {}
        )*
    };
}

guides! {
    #[cfg(feature = "axum")] axum, "axum.md";
    #[cfg(feature = "tonic")] tonic, "tonic.md";
    hyper, "hyper.md";
    #[cfg(feature = "axum")] streams, "streams.md";
    middleware, "middleware.md";
    #[cfg(feature = "axum")] testing, "testing.md";
    #[cfg(feature = "axum")] shutdown, "shutdown.md";
    #[cfg(all(feature = "axum", feature = "metrics", feature = "serde", feature = "tracing"))]
    observability, "observability.md";
    retries, "retries.md";
    context, "context.md";
    #[cfg(all(feature = "axum", feature = "sent-axum"))] last_byte, "last_byte.md";
    #[cfg(feature = "axum")] moving, "moving.md";
}
