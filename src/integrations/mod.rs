//! Integrations with axum, tonic and tower.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
mod tonic;
mod tower;

pub use self::tower::ServiceBuilderExt;
