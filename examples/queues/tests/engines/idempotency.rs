//! A repeated request stores one order and one job.

use queues::connect;
use sqlx::{PgPool, query_scalar};

use crate::support::{Mails, Service, database, eventually, mails::REFUSED, service::Worker};

/// The numbers of orders and of jobs.
async fn counts(pool: &PgPool) -> (i64, i64) {
    let count = "SELECT count(*) FROM orders";
    let orders = query_scalar(count).fetch_one(pool).await;
    let count = "SELECT count(*) FROM pgmq.q_mails";
    let jobs = query_scalar(count).fetch_one(pool).await;
    (orders.expect("it counts"), jobs.expect("it counts"))
}

#[tokio::test]
async fn the_same_key_pushes_once() {
    let Some(url) = database().await else { return };
    let pool = connect(&url).await.unwrap();
    let service = Service::start("idempotency", &url, "").await;
    for _ in 0..2 {
        let status = service
            .post_with("/orders", "idempotency-key: 1", "ada")
            .await;
        assert_eq!(status, 202);
    }
    assert_eq!(counts(&pool).await, (1, 1));
    assert_eq!(
        service
            .post_with("/orders", "idempotency-key: 2", "ada")
            .await,
        202
    );
    assert_eq!(counts(&pool).await, (2, 2));
    assert_eq!(service.post("/orders", "ada").await, 400);
}

#[tokio::test]
async fn requests_at_the_same_time_push_once() {
    let Some(url) = database().await else { return };
    let pool = connect(&url).await.unwrap();
    let service = Service::start("idempotency", &url, "").await;
    let requests = (0..8).map(|_| service.post_with("/orders", "idempotency-key: 1", "ada"));
    let statuses = futures_util::future::join_all(requests).await;
    assert_eq!(statuses, [202; 8]);
    assert_eq!(counts(&pool).await, (1, 1));
}

/// The client repeats its request to the next process. The job fails once.
#[tokio::test]
async fn a_job_survives_the_service_that_pushed_it() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    for _ in 0..2 {
        let service = Service::start("idempotency", &url, "").await;
        let status = service
            .post_with("/orders", "idempotency-key: 1", "ada")
            .await;
        assert_eq!(status, 202);
        service.kill().await;
    }
    let worker = Worker::start("idempotency", &url, "", &mails);
    mails.next().await.answer(REFUSED).await;
    assert_eq!(mails.take().await, "ada");
    eventually("the job is done", async || counts(&pool).await == (1, 0)).await;
    worker.stop().await;
}
