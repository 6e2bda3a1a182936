//! The middleware: layer, service, response future and response body.

mod backpressure;
mod body;
#[cfg_attr(not(feature = "sent"), path = "delivery_disabled.rs")]
mod delivery;
mod ended;
mod future;
mod head_guard;
mod layer;
mod service;
mod tracker;

pub use self::{
    body::ResponseBody, future::ResponseFuture, layer::BackgroundLayer, service::Background,
};
#[cfg(feature = "sent")]
pub(crate) use self::{
    delivery::{Connection, Delivery, TrackedConnection},
    ended::EndedResponse,
};
