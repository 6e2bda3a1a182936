//! The web service of a module, or its worker. The tests start both, and kill them.
//!
//! `service serve MODULE POSTGRES NATS` prints its address. `service work MODULE POSTGRES NATS
//! MAIL_SERVER SECONDS` counts a silent worker as dead after these seconds. Both run until they are
//! killed, or until Ctrl-C.

use std::{net::Ipv4Addr, time::Duration};

use axum::{Router, routing::post};
use queues::{MailServer, apalis, connect, create_users, graphile, idempotency, jetstream, outbox};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_background::{BackgroundLayer, BoxError, Supervisor};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["serve", module, postgres, nats] => serve(module, postgres, nats).await,
        ["work", module, postgres, nats, server, seconds] => {
            let server = MailServer(server.parse()?);
            let dead_after = Duration::from_secs(seconds.parse()?);
            work(module, postgres, nats, server, dead_after).await
        }
        _ => Err("the arguments are in src/bin/service.rs".into()),
    }
}

async fn serve(module: &str, postgres: &str, nats: &str) -> Result<(), BoxError> {
    let supervisor = Supervisor::new();
    let app = match module {
        "graphile" => {
            let pool = connect(postgres).await?;
            create_users(&pool).await?;
            let shop = graphile::open(pool).await?;
            let sign_up = post(graphile::sign_up);
            Router::new().route("/sign-up", sign_up).with_state(shop)
        }
        "apalis" => {
            let pool = connect(postgres).await?;
            create_users(&pool).await?;
            apalis::setup(&pool).await?;
            let sign_up = post(apalis::sign_up);
            Router::new().route("/sign-up", sign_up).with_state(pool)
        }
        "jetstream" => {
            let nats = jetstream::connect(nats).await?;
            // Returns when the client is connected.
            nats.client().flush().await?;
            Router::new()
                .route("/sign-up", post(jetstream::sign_up))
                .route("/sign-up-lossy", post(jetstream::sign_up_lossy))
                .with_state(nats)
        }
        "outbox" => {
            let pool = connect(postgres).await?;
            create_users(&pool).await?;
            outbox::setup(&pool).await?;
            let nats = jetstream::connect(nats).await?;
            drop(outbox::start(&supervisor, pool.clone(), nats)?);
            let sign_up = post(outbox::sign_up);
            Router::new().route("/sign-up", sign_up).with_state(pool)
        }
        "idempotency" => {
            let shop = idempotency::open(connect(postgres).await?, postgres).await?;
            let order = post(idempotency::order);
            Router::new().route("/orders", order).with_state(shop)
        }
        _ => return Err("there is no such module".into()),
    };
    let app = app.layer(BackgroundLayer::with_supervisor(supervisor.clone()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let stopping = supervisor.clone();
    let stop = async move {
        let _ = tokio::signal::ctrl_c().await;
        stopping.begin_shutdown();
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(stop)
        .await?;
    supervisor.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

async fn work(
    module: &str,
    postgres: &str,
    nats: &str,
    server: MailServer,
    dead_after: Duration,
) -> Result<(), BoxError> {
    let stop = CancellationToken::new();
    let worker = match module {
        "graphile" => {
            let pool = connect(postgres).await?;
            tokio::spawn(graphile::work(pool, server, dead_after, stop.clone()))
        }
        "apalis" => {
            let pool = connect(postgres).await?;
            tokio::spawn(apalis::work(pool, server, dead_after, stop.clone()))
        }
        "jetstream" => {
            let nats = jetstream::connect(nats).await?;
            tokio::spawn(jetstream::work(nats, server, dead_after, stop.clone()))
        }
        "idempotency" => {
            let orders = idempotency::open(connect(postgres).await?, postgres).await?;
            let worker = idempotency::work(&orders, server, dead_after);
            tokio::signal::ctrl_c().await?;
            worker.stop(Duration::from_secs(10)).await;
            return Ok(());
        }
        _ => return Err("there is no such module".into()),
    };
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    Ok(worker.await?)
}
