//! Guides.

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/sent.md")]
pub mod sent {}
