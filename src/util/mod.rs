//! Small tools for panics, locks, logs and metrics. They take text and numbers, and know no type of
//! the other folders.

pub(crate) mod metrics;
mod panic;
mod request_fields;
#[cfg_attr(not(feature = "tracing"), path = "span_disabled.rs")]
mod span;
pub(crate) mod sync;
mod text;
pub(crate) mod trace;
mod user_code;

pub(crate) use self::{
    panic::catch,
    request_fields::RequestFields,
    span::TaskSpan,
    text::Text,
    user_code::{catch_and_log, drop_and_log},
};
