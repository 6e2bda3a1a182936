//! graphile_worker keeps what it was given, and its settings do what the guide says.

use queues::{Mail, add_user, connect, create_users, graphile};
use sqlx::{PgPool, query_scalar};

use crate::support::{Mails, Postgres, Service, database, eventually, mails::OK, service::Worker};

async fn jobs(pool: &PgPool) -> i64 {
    let count = "SELECT count(*) FROM graphile_worker.jobs";
    query_scalar(count)
        .fetch_one(pool)
        .await
        .expect("it counts")
}

#[tokio::test]
async fn a_job_survives_the_service_that_pushed_it() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("graphile", &url, "").await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    service.kill().await;
    assert_eq!(jobs(&pool).await, 1);

    let worker = Worker::start("graphile", &url, "", &mails);
    assert_eq!(mails.take().await, "ada");
    eventually("the job is done", async || jobs(&pool).await == 0).await;
    worker.stop().await;
}

/// The client gets an error after 10 s, and the work goes on.
#[tokio::test]
async fn a_database_that_hangs_does_not_hold_the_client() {
    let Some(url) = database().await else { return };
    let pool = connect(&url).await.unwrap();
    let service = Service::start("graphile", &url, "").await;
    let mut transaction = pool.begin().await.unwrap();
    let lock = sqlx::query("LOCK TABLE users");
    lock.execute(&mut *transaction).await.unwrap();
    assert_eq!(service.post("/sign-up", "ada").await, 503);
    transaction.rollback().await.unwrap();
    eventually("the job is stored", async || jobs(&pool).await == 1).await;
}

#[tokio::test]
async fn a_rollback_leaves_no_job() {
    let Some(url) = database().await else { return };
    let pool = connect(&url).await.unwrap();
    create_users(&pool).await.unwrap();
    let shop = graphile::open(pool.clone()).await.unwrap();
    let mail = Mail {
        to: "ada".to_owned(),
    };

    let mut transaction = pool.begin().await.unwrap();
    add_user(&mut transaction, "ada").await.unwrap();
    graphile::push_in(&mut transaction, &shop, mail.clone())
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(jobs(&pool).await, 0);

    let mut transaction = pool.begin().await.unwrap();
    graphile::push_in(&mut transaction, &shop, mail)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(jobs(&pool).await, 1);
}

/// One job fails once, and one panics once. The second job kills its worker twice: recovery is on, and the
/// attempts count.
#[tokio::test]
async fn failed_jobs_and_jobs_of_dead_workers_run_again() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("graphile", &url, "").await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(service.post("/sign-up", "eve").await, 202);
    let worker = Worker::start("graphile", &url, "", &mails);
    mails.fail_two().await;
    eventually("the job is done", async || jobs(&pool).await == 0).await;

    assert_eq!(service.post("/sign-up", "bob").await, 202);
    let _first = mails.next().await;
    worker.kill().await;
    let worker = Worker::start("graphile", &url, "", &mails);
    let _second = mails.next().await;
    worker.kill().await;
    let _worker = Worker::start("graphile", &url, "", &mails);
    let third = mails.next().await;
    let attempts = "SELECT attempts FROM graphile_worker.jobs";
    let attempts: i16 = query_scalar(attempts).fetch_one(&pool).await.unwrap();
    assert_eq!((third.to.as_str(), attempts), ("bob", 3));
    third.answer(OK).await;
    eventually("the job is done", async || jobs(&pool).await == 0).await;
}

#[tokio::test]
async fn a_worker_goes_on_after_the_database_was_away() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let url = server.url("postgres");
    let mails = Mails::new().await;
    let service = Service::start("graphile", &url, "").await;
    let _worker = Worker::start("graphile", &url, "", &mails);
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(mails.take().await, "ada");
    server.crash().await;
    // The first request after the crash may still see a broken connection.
    eventually("the service stores again", async || {
        service.post("/sign-up", "bob").await == 202
    })
    .await;
    // The end of the first job may not have been stored before the crash.
    mails.take_until("bob").await;
}
