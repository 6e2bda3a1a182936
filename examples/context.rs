//! A middleware knows the tenant of a request, and the task of the request knows it too.
//!
//! `cargo run --example context` sends requests of two tenants, and prints what their tasks saw.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::Response,
    routing::post,
};
use tower::ServiceExt;
use tower_background::{
    BackgroundLayer, BackgroundTasks, BoxError, Capture, Scope, Supervisor, Task,
};

tokio::task_local! {
    static TENANT: String;
}

/// Takes the tenant from the code that adds a task into the task.
struct Tenant;

struct TenantScope(Option<String>);

impl Capture for Tenant {
    fn capture(&self) -> Box<dyn Scope> {
        Box::new(TenantScope(TENANT.try_with(Clone::clone).ok()))
    }
}

impl Scope for TenantScope {
    fn enter(&self, poll: &mut dyn FnMut()) {
        match &self.0 {
            Some(tenant) => TENANT.sync_scope(tenant.clone(), poll),
            // The task was added outside the middleware.
            None => poll(),
        }
    }
}

async fn as_tenant(request: Request, next: Next) -> Result<Response, StatusCode> {
    let tenant = request
        .headers()
        .get("x-tenant")
        .and_then(|tenant| tenant.to_str().ok())
        .ok_or(StatusCode::BAD_REQUEST)?
        .to_owned();
    Ok(TENANT.scope(tenant, next.run(request)).await)
}

async fn order(tasks: BackgroundTasks) -> StatusCode {
    tasks.add(Task::new(bill()).named("bill"));
    StatusCode::ACCEPTED
}

/// Any function that the task calls can ask for the tenant, also after an await.
async fn bill() {
    tokio::time::sleep(Duration::from_millis(10)).await;
    println!("the bill goes to {}", TENANT.get());
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let supervisor = Supervisor::builder().capture(Tenant).build();
    let app = Router::new()
        .route("/order", post(order))
        .layer(from_fn(as_tenant))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()));

    for tenant in ["acme", "globex"] {
        let request = Request::post("/order")
            .header("x-tenant", tenant)
            .body(Body::empty())?;
        let response = app.clone().oneshot(request).await?;
        to_bytes(response.into_body(), 1024).await?;
        supervisor.idle().await;
    }
    println!("bills: {}", supervisor.stats().succeeded);
    Ok(())
}
