//! Logging that costs nothing, and needs no `cfg` where it is called, without the `tracing` feature.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{error, warn};

/// Takes named fields and a message as `tracing`'s macros do, and logs nothing.
#[cfg(not(feature = "tracing"))]
macro_rules! nothing {
    ($($name:ident = $(%)? $value:expr,)* $message:literal) => {{
        let _ = ($(&$value,)* $message);
    }};
}

#[cfg(not(feature = "tracing"))]
pub(crate) use {nothing as error, nothing as warn};
