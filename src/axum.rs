//! axum: the registry as an extractor, a task as a part of a response.

use std::convert::Infallible;

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{StatusCode, request::Parts};

use crate::{error::MissingLayer, request::BackgroundTasksExt, task::Task, tasks::BackgroundTasks};

impl<S: Sync> FromRequestParts<S> for BackgroundTasks {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts.background_tasks()
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for BackgroundTasks {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.background_tasks().ok())
    }
}

/// Adds the task to the registry of the request that is being answered.
impl IntoResponseParts for Task {
    type Error = MissingLayer;

    fn into_response_parts(self, response: ResponseParts) -> Result<ResponseParts, Self::Error> {
        BackgroundTasks::current().ok_or(MissingLayer)?.add(self);
        Ok(response)
    }
}

/// A `500 Internal Server Error` that says what to do.
impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.logged().to_string()).into_response()
    }
}
