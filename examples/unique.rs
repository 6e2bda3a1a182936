//! A hundred requests find that a cache is stale, and one task refreshes it.
//!
//! `cargo run --example unique` prints how many tasks ran.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::Request,
    routing::get,
};
use tower::ServiceExt;
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Task};

#[derive(Default)]
struct Cache {
    refreshes: AtomicU32,
}

/// Answers from the stale cache at once. The refresh is for later requests.
async fn prices(State(cache): State<Arc<Cache>>, tasks: BackgroundTasks) -> &'static str {
    let refresh = async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cache.refreshes.fetch_add(1, SeqCst);
    };
    // The key is compared when the response is over, among all tasks that wait or run then.
    tasks.add(Task::new(refresh).named("refresh").unique("refresh-prices"));
    "12.50\n"
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let layer = BackgroundLayer::new();
    let supervisor = layer.supervisor().clone();
    let cache = Arc::<Cache>::default();
    let app = Router::new()
        .route("/prices", get(prices))
        .with_state(Arc::clone(&cache))
        .layer(layer);

    for _ in 0..100 {
        let response = app
            .clone()
            .oneshot(Request::get("/prices").body(Body::empty())?)
            .await?;
        to_bytes(response.into_body(), 1024).await?;
    }
    supervisor.idle().await;
    println!(
        "refreshes: {}, duplicates: {}",
        cache.refreshes.load(SeqCst),
        supervisor.stats().duplicates
    );
    Ok(())
}
