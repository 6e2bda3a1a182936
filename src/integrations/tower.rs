//! tower: the layer as methods of `ServiceBuilder`.

use tower::{ServiceBuilder, layer::util::Stack};

use crate::{middleware::BackgroundLayer, supervisor::Supervisor};

/// Methods of `tower::ServiceBuilder` that add a [`BackgroundLayer`].
///
/// Import it as `_` if another crate has a trait of the same name, as tower-http has.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_background::{NotInRequest, ServiceBuilderExt as _, Supervisor, defer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let supervisor = Supervisor::new();
/// let service = ServiceBuilder::new()
///     .background_with(supervisor.clone())
///     .concurrency_limit(64)
///     .service_fn(async |_: Request<()>| {
///         defer(async { println!("after the response") })?;
///         Ok::<_, NotInRequest>(Response::new(Full::<bytes::Bytes>::from("hello")))
///     });
///
/// service.oneshot(Request::new(())).await?.into_body().collect().await?;
/// supervisor.idle().await;
/// assert_eq!(supervisor.stats().succeeded, 1);
/// # Ok(())
/// # }
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed<L> + Sized {
    /// Adds [`BackgroundLayer::new`], whose supervisor has no limits.
    ///
    /// To shut the supervisor down you need a handle of it, so in a server use
    /// [`background_with`](Self::background_with).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::ServiceBuilder;
    /// use tower_background::ServiceBuilderExt as _;
    ///
    /// let service = ServiceBuilder::new().background().service("any service");
    /// assert_eq!(service.get_ref(), &"any service");
    /// ```
    fn background(self) -> ServiceBuilder<Stack<BackgroundLayer, L>> {
        self.background_with(Supervisor::new())
    }

    /// Adds [`BackgroundLayer::with_supervisor`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::ServiceBuilder;
    /// use tower_background::{ServiceBuilderExt as _, Supervisor};
    ///
    /// let supervisor = Supervisor::builder().max_concurrent(256).build();
    /// let builder = ServiceBuilder::new().background_with(supervisor.clone());
    /// let service = builder.service("any service");
    /// assert_eq!(service.supervisor(), &supervisor);
    /// ```
    fn background_with(self, supervisor: Supervisor) -> ServiceBuilder<Stack<BackgroundLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    fn background_with(self, supervisor: Supervisor) -> ServiceBuilder<Stack<BackgroundLayer, L>> {
        self.layer(BackgroundLayer::with_supervisor(supervisor))
    }
}

mod sealed {
    #[expect(
        unnameable_types,
        reason = "only this crate implements it, so that methods can be added"
    )]
    pub trait Sealed<L> {}
    impl<L> Sealed<L> for tower::ServiceBuilder<L> {}
}
