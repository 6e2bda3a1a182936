//! axum: [`BackgroundTasks`] as an extractor, and a [`Task`] as a part of a response.

use std::convert::Infallible;

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{Method, StatusCode, request::Parts};

use crate::{
    error::{MissingLayer, NotInRequest},
    registry::{BackgroundTasks, BackgroundTasksExt},
    task::Task,
    util::trace,
};

impl<S: Sync> FromRequestParts<S> for BackgroundTasks {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts.background_tasks()
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for BackgroundTasks {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.background_tasks().ok())
    }
}

/// Adds the task to the request that this response answers.
impl IntoResponseParts for Task {
    type Error = MissingLayer;

    fn into_response_parts(self, response: ResponseParts) -> Result<ResponseParts, Self::Error> {
        BackgroundTasks::current()
            .ok_or(MissingLayer::of_unknown_request())?
            .add(self);
        Ok(response)
    }
}

/// Answers with a `500 Internal Server Error`. The log says what to do, and the client only learns
/// that the server is misconfigured.
impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        trace::misconfigured(
            self.method().map(Method::as_str),
            self.path(),
            &self.to_string(),
        );
        internal_error()
    }
}

/// Answers as [`MissingLayer`] does, so that a handler can write `defer(..)?`.
impl IntoResponse for NotInRequest {
    fn into_response(self) -> Response {
        trace::misconfigured(None, None, &self.to_string());
        internal_error()
    }
}

fn internal_error() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, MissingLayer::FOR_CLIENTS).into_response()
}
