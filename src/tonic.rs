//! tonic: the registry of a `tonic::Request`, a status for its absence, and the layer around a single service.

use tonic::{Request, Status, server::NamedService};

use crate::{
    error::MissingLayer,
    request::{BackgroundTasksExt, with_request_id},
    service::Background,
    tasks::BackgroundTasks,
};

impl<T> BackgroundTasksExt for Request<T> {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        with_request_id(self.extensions(), self.metadata().as_ref())
    }
}

/// `INTERNAL`, with a message that says what to do.
impl From<MissingLayer> for Status {
    fn from(missing: MissingLayer) -> Self {
        Self::internal(missing.logged().to_string())
    }
}

/// The name of the wrapped service, by which tonic routes to it.
impl<S: NamedService> NamedService for Background<S> {
    const NAME: &'static str = S::NAME;
}
