//! apalis keeps what it was given, and its settings do what the guide says.

use ::apalis::prelude::TaskBuilder;
use apalis_postgres::queries::push_tasks;
use queues::{Mail, add_user, apalis, connect, create_users};
use sqlx::{PgPool, query_scalar};

use crate::support::{
    Mails, Postgres, Service, database, eventually, mails::REFUSED, service::Worker,
};

/// The states of all jobs.
async fn states(pool: &PgPool) -> Vec<String> {
    let states = "SELECT status FROM apalis.jobs ORDER BY id";
    let states = query_scalar(states).fetch_all(pool).await;
    states.expect("the table is there")
}

#[tokio::test]
async fn a_job_survives_the_service_that_pushed_it() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("apalis", &url, "").await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    service.kill().await;
    assert_eq!(states(&pool).await, ["Pending"]);

    let worker = Worker::start("apalis", &url, "", &mails);
    assert_eq!(mails.take().await, "ada");
    eventually("the job is done", async || states(&pool).await == ["Done"]).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_rollback_leaves_no_job() {
    let Some(url) = database().await else { return };
    let pool = connect(&url).await.unwrap();
    create_users(&pool).await.unwrap();
    apalis::setup(&pool).await.unwrap();
    let mail = Mail {
        to: "ada".to_owned(),
    };

    let mut transaction = pool.begin().await.unwrap();
    add_user(&mut transaction, "ada").await.unwrap();
    apalis::push_in(&mut transaction, &mail).await.unwrap();
    transaction.rollback().await.unwrap();
    assert!(states(&pool).await.is_empty());

    let mut transaction = pool.begin().await.unwrap();
    apalis::push_in(&mut transaction, &mail).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(states(&pool).await, ["Pending"]);
}

/// One job fails once, and one panics once. The worker of the third job is killed.
#[tokio::test]
async fn failed_jobs_and_jobs_of_dead_workers_run_again() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("apalis", &url, "").await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(service.post("/sign-up", "eve").await, 202);
    let worker = Worker::start("apalis", &url, "", &mails);
    mails.fail_two().await;
    let done = ["Done", "Done"];
    eventually("both are done", async || states(&pool).await == done).await;

    assert_eq!(service.post("/sign-up", "bob").await, 202);
    let _first = mails.next().await;
    let runs = ["Done", "Done", "Running"];
    eventually("the job runs", async || states(&pool).await == runs).await;
    worker.kill().await;
    let _worker = Worker::start("apalis", &url, "", &mails);
    assert_eq!(mails.take().await, "bob");
    let done = ["Done"; 3];
    eventually("all are done", async || states(&pool).await == done).await;
}

#[tokio::test]
async fn a_failed_job_waits_before_its_next_attempt() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("apalis", &url, "").await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    let _worker = Worker::start("apalis", &url, "", &mails);
    mails.next().await.answer(REFUSED).await;
    let waits = "SELECT run_at > now() FROM apalis.jobs WHERE status = 'Failed'";
    eventually("the job waits", async || {
        let waits = query_scalar(waits).fetch_optional(&pool).await;
        waits.unwrap() == Some(true)
    })
    .await;
}

#[tokio::test]
async fn a_worker_goes_on_after_the_database_was_away() {
    let Some(mut server) = Postgres::start().await else {
        return;
    };
    let url = server.url("postgres");
    let mails = Mails::new().await;
    let service = Service::start("apalis", &url, "").await;
    let _worker = Worker::start("apalis", &url, "", &mails);
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

/// A job that another version of the service pushed.
#[tokio::test]
async fn a_job_that_does_not_decode_fails_alone() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("apalis", &url, "").await;
    let mut transaction = pool.begin().await.unwrap();
    let other = TaskBuilder::new(br#"{"address":"eve"}"#.to_vec()).build();
    push_tasks(&mut *transaction, "mails", vec![other])
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    let _worker = Worker::start("apalis", &url, "", &mails);
    assert_eq!(mails.take().await, "ada");
    assert_eq!(service.post("/sign-up", "bob").await, 202);
    assert_eq!(mails.take().await, "bob");
    eventually("the others are done", async || {
        let mut states = states(&pool).await;
        states.sort();
        states == ["Done", "Done", "Failed"]
    })
    .await;
}

/// A job that kills its workers would run for ever without the check of the guide.
#[tokio::test]
async fn a_job_whose_workers_died_too_often_ends() {
    let Some(url) = database().await else { return };
    let (mails, pool) = (Mails::new().await, connect(&url).await.unwrap());
    let service = Service::start("apalis", &url, "").await;
    for (address, attempts) in [("bob", 25), ("ada", 24)] {
        assert_eq!(service.post("/sign-up", address).await, 202);
        let died = "UPDATE apalis.jobs SET attempts = $1 WHERE attempts = 0";
        let died = sqlx::query(died).bind(attempts).execute(&pool).await;
        assert_eq!(died.unwrap().rows_affected(), 1);
    }
    let _worker = Worker::start("apalis", &url, "", &mails);
    assert_eq!(mails.take().await, "ada");
    eventually("both jobs end", async || {
        let mut states = states(&pool).await;
        states.sort();
        states == ["Done", "Failed"]
    })
    .await;
}
