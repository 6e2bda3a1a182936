//! [`BackgroundTasksExt`]: the registry of a request, by method.

use http::{Extensions, HeaderMap, Request, request::Parts};

use crate::{error::MissingLayer, tasks::BackgroundTasks};

/// Gives the task registry of a request, of its parts or of its extensions.
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
    /// The registry.
    ///
    /// # Errors
    ///
    /// [`MissingLayer`], if no [`BackgroundLayer`](crate::BackgroundLayer) is around the service.
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer>;
}

impl BackgroundTasksExt for Extensions {
    #[inline]
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        self.get().cloned().ok_or(MissingLayer)
    }
}

impl BackgroundTasksExt for Parts {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        with_request_id(&self.extensions, &self.headers)
    }
}

impl<B> BackgroundTasksExt for Request<B> {
    #[inline]
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        with_request_id(self.extensions(), self.headers())
    }
}

/// The registry of a request that may have got its id only after it was opened, from a layer within ours.
#[inline]
pub(crate) fn with_request_id(extensions: &Extensions, headers: &HeaderMap) -> Result<BackgroundTasks, MissingLayer> {
    let tasks = extensions.background_tasks()?;
    tasks.exchange().request_id.note(headers);
    Ok(tasks)
}
