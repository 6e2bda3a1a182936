//! A task that tries again with the crate `backon`.
//!
//! `cargo run --example retry` sends a mail to a server that is busy twice. The retries are lost
//! when the process ends. Use a queue if they must survive that.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    routing::post,
};
use backon::{ExponentialBuilder, Retryable};
use tower::ServiceExt;
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Task};

static ATTEMPTS: AtomicU32 = AtomicU32::new(0);

async fn send_mail() -> io::Result<()> {
    match ATTEMPTS.fetch_add(1, SeqCst) {
        0 | 1 => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
        _ => Ok(()),
    }
}

async fn sign_up(tasks: BackgroundTasks) -> StatusCode {
    let mail = Task::with_context(|cx| async move {
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_times(5)
            .with_jitter();
        let sending = send_mail
            .retry(waits)
            // A shutdown cancels the task after its grace. The outcome of the task is then the
            // error of the last attempt.
            .when(move |_| !cx.is_cancelled())
            .notify(|error, wait| {
                println!(
                    "{error}: the next attempt is in less than {} s",
                    wait.as_secs() + 1
                );
            });
        sending.await
    });
    // The timeout is for all attempts together.
    tasks.add(mail.named("mail").timeout(Duration::from_secs(60)));
    StatusCode::ACCEPTED
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let layer = BackgroundLayer::new();
    let supervisor = layer.supervisor().clone();
    let app = Router::new().route("/sign-up", post(sign_up)).layer(layer);

    let response = app
        .oneshot(Request::post("/sign-up").body(Body::empty())?)
        .await?;
    to_bytes(response.into_body(), 1024).await?;
    supervisor.idle().await;
    println!(
        "attempts: {}, succeeded: {}",
        ATTEMPTS.load(SeqCst),
        supervisor.stats().succeeded
    );
    Ok(())
}
