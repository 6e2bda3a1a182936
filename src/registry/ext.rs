//! [`BackgroundTasksExt`]: the registry of a request, by a method.

use http::{Extensions, HeaderMap, Method, Request, Uri, request::Parts};

use super::tasks::BackgroundTasks;
use crate::{error::MissingLayer, util::Text};

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
        self.get()
            .cloned()
            .ok_or(MissingLayer::of_unknown_request())
    }
}

impl BackgroundTasksExt for Parts {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        background_tasks(&self.extensions, &self.headers)
            .ok_or_else(|| missing(&self.method, &self.uri))
    }
}

impl<B> BackgroundTasksExt for Request<B> {
    fn background_tasks(&self) -> Result<BackgroundTasks, MissingLayer> {
        background_tasks(self.extensions(), self.headers())
            .ok_or_else(|| missing(self.method(), self.uri()))
    }
}

/// Returns the tasks of a request, and notes the request id that a layer inside of this crate's may
/// have set.
pub(crate) fn background_tasks(
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Option<BackgroundTasks> {
    let tasks = extensions.get::<BackgroundTasks>()?.clone();
    tasks.state().note_request_id(headers);
    Some(tasks)
}

fn missing(method: &Method, uri: &Uri) -> MissingLayer {
    MissingLayer::of_request(method.clone(), Box::from(&*Text::from(uri.path())))
}
