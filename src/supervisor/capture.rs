//! [`Capture`]: takes the context of the code that adds a task along to the task.

use std::sync::Arc;

/// Captures the context of the code that adds a task, for the task to run in.
///
/// Values such as Sentry's hub, an OpenTelemetry context or a `tokio::task_local!` belong to the
/// code that runs now. A task runs later and elsewhere, so it does not see them. Give an
/// implementation to [`SupervisorBuilder::capture`](crate::SupervisorBuilder::capture), and every
/// task runs inside the scope that it captured.
///
/// # Examples
///
/// ```
/// use tower_background::{Capture, Scope, Supervisor};
///
/// tokio::task_local!(static TENANT: u32);
///
/// struct Tenant;
/// struct TenantScope(Option<u32>);
///
/// impl Capture for Tenant {
///     fn capture(&self) -> Box<dyn Scope> {
///         Box::new(TenantScope(TENANT.try_get().ok()))
///     }
/// }
///
/// impl Scope for TenantScope {
///     fn enter(&self, poll: &mut dyn FnMut()) {
///         match self.0 {
///             Some(tenant) => TENANT.sync_scope(tenant, poll),
///             None => poll(),
///         }
///     }
/// }
///
/// let supervisor = Supervisor::builder().capture(Tenant).build();
/// # drop(supervisor);
/// ```
pub trait Capture: Send + Sync {
    /// Captures the context. It is called where a task is added, on the thread that adds it.
    fn capture(&self) -> Box<dyn Scope>;
}

/// A captured context.
pub trait Scope: Send + Sync {
    /// Enters the context, calls `poll` once, and leaves the context. It is called for each poll of
    /// the task, and once for a blocking function.
    fn enter(&self, poll: &mut dyn FnMut());
}

impl<C: Capture + ?Sized> Capture for Arc<C> {
    fn capture(&self) -> Box<dyn Scope> {
        (**self).capture()
    }
}
