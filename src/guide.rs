//! Guides. Those whose code needs a feature are there with that: all of them on docs.rs.

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/sent.md")]
pub mod sent {}

#[cfg(feature = "axum")]
#[doc = include_str!("../docs/axum.md")]
pub mod axum {}

#[cfg(feature = "tonic")]
#[doc = include_str!("../docs/tonic.md")]
pub mod tonic {}

#[doc = include_str!("../docs/hyper.md")]
pub mod hyper {}

#[cfg(feature = "axum")]
#[doc = include_str!("../docs/shutdown.md")]
pub mod shutdown {}

#[cfg(all(feature = "axum", feature = "metrics", feature = "tracing"))]
#[doc = include_str!("../docs/monitoring.md")]
pub mod monitoring {}

#[cfg(feature = "axum")]
#[doc = include_str!("../docs/moving.md")]
pub mod moving {}
