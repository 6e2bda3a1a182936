//! [`BackgroundLayer`]: wraps a service.

use tower::Layer;

use super::service::Background;
use crate::supervisor::Supervisor;

/// Gives each request [`BackgroundTasks`](crate::BackgroundTasks), and starts them when the
/// response is over.
///
/// Add this layer outside any layer that replaces the response or its body. It only sees the
/// response of the service that it wraps. If several layers with the same supervisor wrap a
/// request, as with nested axum routers, the outermost decides.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_background::{BackgroundLayer, defer};
///
/// let layer = BackgroundLayer::new();
/// let service = ServiceBuilder::new().layer(layer.clone()).service(service_fn(async |_: Request<()>| {
///     defer(async { println!("second") })?;
///     println!("first");
///     Ok::<_, tower_background::NotInRequest>(Response::new(Full::<bytes::Bytes>::from("hello")))
/// }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(layer.supervisor().stats().deferred, 1);
///
/// response.into_body().collect().await?;
/// layer.supervisor().idle().await;
/// assert_eq!(layer.supervisor().stats().succeeded, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct BackgroundLayer {
    supervisor: Supervisor,
}

impl BackgroundLayer {
    /// Creates a layer with a new supervisor that has no limits.
    ///
    /// Use it for one layer, and take its supervisor from [`supervisor`](Self::supervisor). If you
    /// have a supervisor already, use [`with_supervisor`](Self::with_supervisor): yours does not wait
    /// for the tasks of this one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a layer whose tasks belong to this supervisor.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundLayer, Supervisor};
    ///
    /// let supervisor = Supervisor::new();
    /// let public = BackgroundLayer::with_supervisor(supervisor.clone());
    /// let internal = BackgroundLayer::with_supervisor(supervisor);
    /// assert_eq!(public.supervisor(), internal.supervisor());
    /// ```
    #[must_use]
    pub const fn with_supervisor(supervisor: Supervisor) -> Self {
        Self { supervisor }
    }

    /// Returns the supervisor that owns the tasks.
    #[must_use]
    pub const fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }
}

impl<S> Layer<S> for BackgroundLayer {
    type Service = Background<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Background::new(inner, self.supervisor.clone())
    }
}
