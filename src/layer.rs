//! [`BackgroundLayer`]: puts the middleware around a service.

use tower_layer::Layer;

use crate::{service::Background, supervisor::Supervisor};

/// Gives each request a task registry, and runs its tasks when its response is over.
///
/// It belongs outside of all layers that replace responses or their bodies: what it sees is the response that it wraps.
/// The same layer may be around a request twice, as in nested axum routers; the outermost then decides.
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
///     Ok::<_, tower_background::MissingLayer>(Response::new(Full::<bytes::Bytes>::from("hello")))
/// }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(layer.supervisor().stats().collected, 1);
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
    /// A layer with a supervisor of its own, without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer whose tasks are owned by this supervisor.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundLayer, Supervisor};
    ///
    /// let supervisor = Supervisor::new();
    /// let public = BackgroundLayer::with(supervisor.clone());
    /// let internal = BackgroundLayer::with(supervisor);
    /// assert_eq!(public.supervisor(), internal.supervisor());
    /// ```
    #[must_use]
    pub const fn with(supervisor: Supervisor) -> Self {
        Self { supervisor }
    }

    /// The supervisor that owns the tasks.
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
