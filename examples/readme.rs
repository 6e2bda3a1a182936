//! The program of the README. `cargo run --example readme -- 127.0.0.1:3000` starts it.

use std::{env, time::Duration};

use axum::{Router, http::StatusCode, routing::post};
use tokio::{net::TcpListener, signal};
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Supervisor, Task};

async fn sign_up(tasks: BackgroundTasks, address: String) -> StatusCode {
    tasks.add(Task::new(send_mail(address)).named("welcome-mail")); // Runs after the response.
    StatusCode::ACCEPTED
}

async fn send_mail(address: String) -> Result<(), BoxError> {
    if !address.contains('@') {
        return Err("this is no address".into());
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // A mail server takes some time.
    println!("a mail went to {address}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init(); // Shows the errors of tasks.
    let supervisor = Supervisor::new();
    let app = Router::new()
        .route("/sign-up", post(sign_up))
        .layer(BackgroundLayer::with_supervisor(supervisor.clone())); // After the routes.

    let address = env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("http://{}/sign-up", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async { signal::ctrl_c().await.expect("no other handler") })
        .await?;

    // The server has stopped. Give the tasks that are left 10 seconds, and 1 more to cancel.
    println!("{}", supervisor.shutdown(Duration::from_secs(10)).await);
    Ok(())
}
