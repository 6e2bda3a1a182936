//! Real servers, processes of `service`, a mail server, and waiting for events.

pub mod mails;
pub mod nats;
#[allow(dead_code, reason = "the tests of the package of jobs use more of it")]
#[path = "../../../../../jobs/tests/support/postgres.rs"]
pub mod postgres;
pub mod service;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub use self::{mails::Mails, nats::Nats, postgres::Postgres, service::Service};

/// The longest time that a test waits for an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// After this time, workers count a silent worker as dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(2);

/// Waits for a future that must end.
pub async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    let ended = timeout(PATIENCE, event).await;
    ended.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Creates a database on the server that the tests share. `None` if PostgreSQL is not installed.
pub async fn database() -> Option<String> {
    let server = Postgres::shared().await?;
    let name = server.database().await;
    Some(server.url(&name))
}
