//! Guides, one for each thing that you may want to do.
//!
//! In the repository the guides are the files in `docs/guides/`. All their code is compiled and
//! run.
//!
//! | guide | read it to |
//! |---|---|
//! | [axum], [tonic], [hyper] | add the layer to your server, and solve problems |
//! | [streams] | use tasks with downloads, event streams and WebSockets |
//! | [middleware] | find the place of the layer among your other layers |
//! | [testing] | test handlers and their tasks without sleeping |
//! | [shutdown] | stop without losing tasks, with Kubernetes and systemd |
//! | [observability] | see tasks in logs, metrics, alerts and an admin page |
//! | [limits] | run a task once, or only a few at a time |
//! | [retries] | repeat work that can fail for a short time |
//! | [context] | take Sentry, OpenTelemetry or a task-local value into tasks |
//! | [last_byte] | start tasks when the socket took the last byte |
//! | [moving] | come from `tokio::spawn`, FastAPI, Next.js, Laravel or Rack |

#![allow(
    clippy::doc_markdown,
    reason = "the guides are prose, and name products"
)]

/// Declares one module for each guide. The code of a guide can need a feature. Without that feature
/// the module has no guide, so that links to it still work. docs.rs has all features.
macro_rules! guides {
    ($($name:ident, $file:literal, $needs:meta;)*) => {
        $(
            #[cfg_attr($needs, doc = include_str!(concat!("../docs/guides/", $file)))]
            #[cfg_attr(not($needs), doc = "This guide needs all features.")]
            pub mod $name {}
        )*
    };
}

guides! {
    axum, "axum.md", feature = "axum";
    tonic, "tonic.md", feature = "tonic";
    hyper, "hyper.md", all();
    streams, "streams.md", feature = "axum";
    middleware, "middleware.md", feature = "axum";
    testing, "testing.md", feature = "axum";
    shutdown, "shutdown.md", feature = "axum";
    observability, "observability.md",
        all(feature = "axum", feature = "metrics", feature = "serde", feature = "tracing");
    limits, "limits.md", all();
    retries, "retries.md", all();
    context, "context.md", all();
    last_byte, "last_byte.md", all(feature = "axum", feature = "sent-axum");
    moving, "moving.md", feature = "axum";
}
