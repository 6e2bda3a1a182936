//! Small tools for panics, locks, logs and metrics. They take text and numbers, and know no type of
//! the other folders.

pub(crate) mod metrics;
pub(crate) mod panic;
pub(crate) mod request_fields;
#[cfg_attr(not(feature = "tracing"), path = "span_disabled.rs")]
pub(crate) mod span;
pub(crate) mod sync;
pub(crate) mod text;
pub(crate) mod trace;
pub(crate) mod user_code;
