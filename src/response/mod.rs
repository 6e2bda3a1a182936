//! What is known of a request, and how its response ended. This is plain data: nothing here starts
//! or runs a task.

mod body_state;
mod end;
mod headers;
mod request_info;
mod response_error;

pub(crate) use self::{
    body_state::BodyState,
    end::{EndDetails, ResponseHead},
    request_info::{RequestHead, RequestInfo, request_id},
};
#[cfg(feature = "sent")]
pub(crate) use self::{body_state::can_have_body, headers::declared_length};
pub use self::{
    end::{EndKind, ResponseEnd},
    response_error::ResponseError,
};
