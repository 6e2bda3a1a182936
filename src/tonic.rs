//! tonic: the registry of a `tonic::Request`, and a status for its absence.

use tonic::{Request, Status};

use crate::{error::MissingLayer, request::BackgroundTasksExt, tasks::BackgroundTasks};

impl<T> BackgroundTasksExt for Request<T> {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        self.extensions().background_tasks()
    }
}

/// `INTERNAL`, with a message that says what to do.
impl From<MissingLayer> for Status {
    fn from(missing: MissingLayer) -> Self {
        Self::internal(missing.logged().to_string())
    }
}
