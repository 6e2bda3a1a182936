//! The outbox keeps what was committed, and relays it when the queue is there.

use queues::{Mail, add_user, connect, create_users, outbox};
use sqlx::{PgPool, query_scalar};
use tower_background::Supervisor;

use crate::support::{
    Mails, Nats, Service, database, eventually,
    nats::{connected, messages},
    service::Worker,
};

async fn rows(pool: &PgPool) -> i64 {
    let count = "SELECT count(*) FROM outbox";
    query_scalar(count)
        .fetch_one(pool)
        .await
        .expect("it counts")
}

#[tokio::test]
async fn a_job_survives_the_service_and_a_queue_that_is_away() {
    let Some(url) = database().await else { return };
    let Some(mut server) = Nats::start() else {
        return;
    };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let nats = server.connect(100).await;
    let service = Service::start("outbox", &url, &server.url()).await;
    server.kill();
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    service.kill().await;
    assert_eq!(rows(&pool).await, 1);

    server.restart();
    eventually("the client is connected", async || connected(&nats)).await;
    let _service = Service::start("outbox", &url, &server.url()).await;
    let _worker = Worker::start("jetstream", "", &server.url(), &mails);
    assert_eq!(mails.take().await, "ada");
    eventually("the outbox is empty", async || rows(&pool).await == 0).await;
}

#[tokio::test]
async fn a_rollback_leaves_no_row() {
    let Some(url) = database().await else { return };
    let pool = connect(&url).await.unwrap();
    create_users(&pool).await.unwrap();
    outbox::setup(&pool).await.unwrap();
    let mail = Mail {
        to: "ada".to_owned(),
    };

    let mut transaction = pool.begin().await.unwrap();
    add_user(&mut transaction, "ada").await.unwrap();
    outbox::push_in(&mut transaction, &mail).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(rows(&pool).await, 0);
}

/// The process died after the publish and before the commit: the row is still there.
#[tokio::test]
async fn a_row_that_is_relayed_twice_is_one_job() {
    let Some(url) = database().await else { return };
    let Some(server) = Nats::start() else { return };
    let (pool, nats) = (connect(&url).await.unwrap(), server.connect(100).await);
    outbox::setup(&pool).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let mail = Mail {
        to: "ada".to_owned(),
    };
    outbox::push_in(&mut transaction, &mail).await.unwrap();
    transaction.commit().await.unwrap();
    let id: i64 = query_scalar("SELECT id FROM outbox")
        .fetch_one(&pool)
        .await
        .unwrap();

    queues::jetstream::push(&nats, &format!("outbox-{id}"), &mail)
        .await
        .unwrap();
    outbox::relay(&pool, &nats).await.unwrap();
    assert_eq!(rows(&pool).await, 0);
    assert_eq!(messages(&nats, "mails").await, Some(1));
}

#[tokio::test]
async fn the_supervisor_lists_and_stops_the_relay() {
    let Some(url) = database().await else { return };
    let Some(server) = Nats::start() else { return };
    let (pool, nats) = (connect(&url).await.unwrap(), server.connect(100).await);
    outbox::setup(&pool).await.unwrap();
    let supervisor = Supervisor::new();
    drop(outbox::start(&supervisor, pool, nats).unwrap());
    assert_eq!(supervisor.tasks()[0].name(), Some("outbox"));
    let report = supervisor
        .shutdown(std::time::Duration::from_secs(30))
        .await;
    assert!(report.is_clean());
    assert_eq!(supervisor.stats().succeeded, 1);
}
