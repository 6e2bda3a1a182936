//! tonic: the tasks of a `tonic::Request`, a status for the errors of this crate, and the layer
//! around a single service.

use http::Method;
use tonic::{Request, Status, server::NamedService};

use crate::{
    error::{MissingLayer, NotInRequest},
    middleware::Background,
    registry::{BackgroundTasks, BackgroundTasksExt, background_tasks},
    util::trace,
};

impl<T> BackgroundTasksExt for Request<T> {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        background_tasks(self.extensions(), self.metadata().as_ref())
            .ok_or(MissingLayer::of_unknown_request())
    }
}

/// Converts the error to `INTERNAL`. The log says what to do, and the client only learns that the
/// server is misconfigured.
impl From<MissingLayer> for Status {
    fn from(missing: MissingLayer) -> Self {
        trace::misconfigured(
            missing.method().map(Method::as_str),
            missing.path(),
            &missing.to_string(),
        );
        internal()
    }
}

/// Converts the error as [`MissingLayer`], so that a method of a service can write `defer(..)?`.
impl From<NotInRequest> for Status {
    fn from(error: NotInRequest) -> Self {
        trace::misconfigured(None, None, &error.to_string());
        internal()
    }
}

fn internal() -> Status {
    Status::internal(MissingLayer::FOR_CLIENTS)
}

/// tonic routes requests by this name, so it is the name of the wrapped service.
impl<S: NamedService> NamedService for Background<S> {
    const NAME: &'static str = S::NAME;
}
