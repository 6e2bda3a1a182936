//! An SMTP server takes four connections at once, so at most four tasks send mails.
//!
//! `cargo run --example limit` sends twenty mails, and prints how many connections were open at
//! once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::{Request, StatusCode},
    routing::post,
};
use tower::ServiceExt;
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Limit, Task};

#[derive(Clone)]
struct Mailer {
    connections: Limit,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Mailer {
    fn new() -> Self {
        Self {
            connections: Limit::new(4),
            open: Arc::default(),
            most: Arc::default(),
        }
    }

    /// Sends a mail when one of the four connections is free. Other tasks do not wait for that.
    fn send_later(&self, tasks: &BackgroundTasks) {
        let mailer = self.clone();
        let send = async move {
            let open = mailer.open.fetch_add(1, SeqCst) + 1;
            mailer.most.fetch_max(open, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            mailer.open.fetch_sub(1, SeqCst);
        };
        tasks.add(Task::new(send).named("mail").limit(&self.connections));
    }
}

async fn sign_up(State(mailer): State<Mailer>, tasks: BackgroundTasks) -> StatusCode {
    mailer.send_later(&tasks);
    StatusCode::ACCEPTED
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let layer = BackgroundLayer::new();
    let supervisor = layer.supervisor().clone();
    let mailer = Mailer::new();
    let app = Router::new()
        .route("/sign-up", post(sign_up))
        .with_state(mailer.clone())
        .layer(layer);

    for _ in 0..20 {
        let response = app
            .clone()
            .oneshot(Request::post("/sign-up").body(Body::empty())?)
            .await?;
        to_bytes(response.into_body(), 1024).await?;
    }
    supervisor.idle().await;
    println!(
        "mails: {}, connections at once: {}",
        supervisor.stats().succeeded,
        mailer.most.load(SeqCst)
    );
    Ok(())
}
