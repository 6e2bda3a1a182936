//! A worker in a process of its own, which runs until Ctrl-C, and ends what it has begun.
//!
//! Its arguments: a URL, `postgres://…` or `nats://…`; the address of a mail server; and the seconds after which a silent worker is
//! taken for dead.

use std::{env, time::Duration};

use queues::{MailServer, graphile, jetstream};
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;
use tower_background::BoxError;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let [url, server, dead_after] = env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "three arguments")?;
    let server = MailServer(server.parse()?);
    let dead_after = Duration::from_secs(dead_after.parse()?);

    let stop = CancellationToken::new();
    let worker = if url.starts_with("nats:") {
        tokio::spawn(jetstream::work(jetstream::connect(&url).await?, server, dead_after, stop.clone()))
    } else {
        let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(5)).connect(&url).await?;
        tokio::spawn(graphile::work(pool, server, dead_after, stop.clone()))
    };
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    Ok(worker.await?)
}
