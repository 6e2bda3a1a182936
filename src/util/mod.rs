//! Small tools that know nothing of requests and tasks.

pub(crate) mod metrics;
pub(crate) mod panic;
pub(crate) mod span;
pub(crate) mod sync;
pub(crate) mod text;
pub(crate) mod trace;
pub(crate) mod user_code;
