//! [`BackgroundTasksExt`]: the registry of a request, by a method.

use http::{Extensions, HeaderMap, Request, request::Parts};

use super::tasks::BackgroundTasks;
use crate::error::MissingLayer;

/// Returns the [`BackgroundTasks`] of a request, of its parts or of its extensions.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use tower_background::{BackgroundTasksExt, MissingLayer};
///
/// async fn handler(request: Request<()>) -> Result<Response<String>, MissingLayer> {
///     request.background_tasks()?.add(async { println!("after the response") });
///     Ok(Response::new("done".to_owned()))
/// }
/// # let _ = handler;
/// ```
pub trait BackgroundTasksExt {
    /// Returns the tasks of the request.
    ///
    /// # Errors
    ///
    /// Returns [`MissingLayer`] if no [`BackgroundLayer`](crate::BackgroundLayer) wraps the
    /// service.
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer>;
}

impl BackgroundTasksExt for Extensions {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        self.get().cloned().ok_or(MissingLayer)
    }
}

impl BackgroundTasksExt for Parts {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        background_tasks(&self.extensions, &self.headers)
    }
}

impl<B> BackgroundTasksExt for Request<B> {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        background_tasks(self.extensions(), self.headers())
    }
}

/// Returns the tasks of a request, and notes the request id that a layer inside of this crate's may
/// have set.
pub(crate) fn background_tasks(
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<BackgroundTasks, MissingLayer> {
    let tasks = extensions.background_tasks()?;
    tasks.state().note_request_id(headers);
    Ok(tasks)
}
