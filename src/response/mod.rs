//! What is known of a request and of the end of its response. Plain data: nothing here starts or
//! runs a task.

mod body_state;
mod end;
mod progress;
mod request_info;

#[cfg(feature = "sent")]
pub(crate) use self::body_state::{can_have_body, declared_length};
pub use self::end::{EndKind, ResponseEnd, ResponseError};
pub(crate) use self::{
    body_state::{BodyState, Head, Judgement},
    end::EndDetails,
    progress::Progress,
    request_info::{OpenRequest, RequestHead, RequestInfo},
};
