//! What is known of a request, and how its response ended. This is plain data: nothing here starts
//! or runs a task.

mod body_state;
mod end;
mod headers;
mod request_info;
mod response_error;

#[cfg(feature = "sent")]
pub(crate) use self::{body_state::can_have_body, headers::declared_length};
pub(crate) use self::{
    body_state::{BodyState, Judgement},
    end::{EndDetails, EndSummary, ResponseHead},
    request_info::{KeptRequest, OpenRequest, RequestHead, RequestInfo},
};
pub use self::{
    end::{EndKind, ResponseEnd},
    response_error::ResponseError,
};
