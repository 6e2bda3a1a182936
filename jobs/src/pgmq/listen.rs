//! Listens for the notifications that senders give, and survives a connection that went silent.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{Error, backoff::jitter, bounds::within};

/// After this time without a notification, the connection is asked whether it is alive.
const SILENCE: Duration = Duration::from_secs(5);

/// Wakes the worker at each notification. Never ends.
pub(super) async fn run(
    options: PgConnectOptions,
    bound: Duration,
    channel: String,
    notify: Arc<Notify>,
) {
    loop {
        if let Err(error) = listen(&options, bound, &channel, &notify).await {
            tracing::debug!(channel, %error, "a worker polls until it can listen again");
        }
        sleep(Duration::from_millis(100) + jitter(Duration::from_secs(1))).await;
    }
}

async fn listen(
    options: &PgConnectOptions,
    bound: Duration,
    channel: &str,
    notify: &Notify,
) -> Result<(), Error> {
    let connect = async {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false);
        let pool = pool.connect_with(options.clone()).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    };
    let mut listener = within("listen", bound, connect).await?;
    // What came before is found by a look at the queue.
    notify.notify_one();
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => notify.notify_one(),
            // Notifications may have been lost with the connection.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(Error::database("listen", error)),
            Err(_) => {
                let alive = sqlx::query("SELECT 1").execute(&mut listener);
                within("listen", bound, alive).await?;
            }
        }
    }
}
