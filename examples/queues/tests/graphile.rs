//! What the destination over `graphile_worker` keeps, on a real PostgreSQL, with workers that are killed by SIGKILL.
//!
//! Skipped where there is no PostgreSQL, unless `TOWER_BACKGROUND_NO_SKIP` is set.

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use queues::{ATTEMPTS, Mail, app, graphile::Queue, unavailable};
use reqwest::StatusCode;
use sqlx::{PgPool, Row, postgres::PgListener};
use support::{Mails, Postgres, Raw, Worker, serve, sign_up, soon};
use tokio::sync::mpsc;
use tower_background::{BackgroundLayer, BackgroundTasks, BoxError, Receipt, Supervisor};

/// As good as for ever, as far as a test goes.
const LONG: Duration = Duration::from_hours(1);

/// Where a worker finds the server.
fn url(server: &Postgres) -> String {
    let options = server.options();
    let folder = options.get_socket().expect("it has a socket").display().to_string();
    format!("postgres://test@localhost/postgres?host={folder}")
}

/// The address and the attempts of each job that is not done.
async fn jobs(pool: &PgPool) -> Vec<(String, i16)> {
    let rows = sqlx::query("SELECT key, attempts FROM graphile_worker.jobs ORDER BY key").fetch_all(pool).await;
    rows.expect("the server is up").iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Waits until there are these.
async fn until(pool: &PgPool, expected: &[(&str, i16)]) {
    let reached = async {
        while !jobs(pool).await.iter().map(|(address, attempts)| (address.as_str(), *attempts)).eq(expected.iter().copied()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(reached).await;
}

/// A job of each mode. The durable one is written later and begins first, as the other's response is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_promised_is_done_and_what_is_held_begins_after_the_response() {
    let Some(server) = Postgres::start().await else { return };
    let (pool, mails, supervisor) = (server.pool().await, Mails::new().await, Supervisor::new());
    let queue = Queue::new(pool.clone()).await.expect("the tables can be made");
    let _worker = Worker::start(&url(&server), &mails);
    let mut told = PgListener::connect_with(&pool).await.expect("the server is up");
    told.listen("jobs:insert").await.expect("the server is up");

    let (end, body) = mpsc::unbounded_channel::<Result<&str, BoxError>>();
    let body = Arc::new(Mutex::new(Some(body)));
    let held = queue.held(LONG);
    let open = get(async move |tasks: BackgroundTasks| {
        tasks.add(held.job(Mail { address: "held".to_owned() }));
        let body = body.lock().unwrap().take().expect("there is one request");
        Body::from_stream(futures_util::stream::unfold(body, async |mut body| Some((body.recv().await?, body))))
    });
    let layer = BackgroundLayer::with(supervisor.clone()).hand_off(unavailable);
    let service = serve(app(queue.durable(), supervisor.clone()).merge(Router::new().route("/", open).layer(layer))).await;

    let mut client = Raw::connect(service).await;
    client.get("/").await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    assert_eq!(jobs(&pool).await, [("held".to_owned(), 0)], "it is written before the head");
    soon(told.recv()).await.expect("of the held one");

    assert_eq!(sign_up(service, "durable").await.0, StatusCode::ACCEPTED);
    soon(told.recv()).await.expect("of the durable one");
    assert_eq!(mails.take().await, "1 durable");
    until(&pool, &[("held", 0)]).await;

    drop(end);
    client.until("0\r\n\r\n").await;
    soon(told.recv()).await.expect("of the release");
    assert_eq!(mails.take().await, "1 held");
    until(&pool, &[]).await;
    soon(supervisor.idle()).await;
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().succeeded), (2, 1));
}

/// A release that can't be done is no loss, and neither is a process that dies before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_job_shares_the_fate_of_its_transaction_and_starts_by_itself() {
    let Some(server) = Postgres::start().await else { return };
    let (pool, mails) = (server.pool().await, Mails::new().await);
    let queue = Queue::new(pool.clone()).await.expect("the tables can be made");
    let mail = |address: &str| Mail { address: address.to_owned() };

    let mut transaction = pool.begin().await.expect("the server is up");
    let lost = queue.hold_in(&mut transaction, mail("undone"), LONG).await.expect("it is written");
    transaction.rollback().await.expect("it can be undone");
    lost.release().await.expect("that there is nothing to release is no error");
    assert_eq!(jobs(&pool).await, []);

    let mut transaction = pool.begin().await.expect("the server is up");
    let released = queue.hold_in(&mut transaction, mail("released"), LONG).await.expect("it is written");
    let forgotten = queue.hold_in(&mut transaction, mail("forgotten"), Duration::from_secs(3)).await.expect("it is written");
    transaction.commit().await.expect("it can be kept");
    drop(forgotten);

    let _worker = Worker::start(&url(&server), &mails);
    released.release().await.expect("the server is up");
    assert_eq!([mails.take().await, mails.take().await], ["1 released", "1 forgotten"]);
    until(&pool, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_told_of_and_loses_no_job() {
    let Some(mut server) = Postgres::start().await else { return };
    let (pool, mails, supervisor) = (server.pool().await, Mails::new().await, Supervisor::new());
    let queue = Queue::new(pool.clone()).await.expect("the tables can be made");
    let service = serve(app(queue.durable(), supervisor.clone())).await;
    let _worker = Worker::start(&url(&server), &mails);
    assert_eq!(sign_up(service, "promised").await.0, StatusCode::ACCEPTED);
    let sending = mails.next().await;

    // It dies in the middle of a job, and the end of that can't be written.
    server.down();
    let (status, text) = sign_up(service, "not promised").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "a job was not handed off: its destination failed");
    sending.take().await;
    server.up().await;

    assert_eq!(sign_up(service, "later").await.0, StatusCode::ACCEPTED);
    let sent = mails.take_all();
    until(&pool, &[]).await;
    let sent = sent.lock().unwrap().clone();
    assert!(sent.contains(&"1 later".to_owned()), "{sent:?}");
    assert!(!sent.iter().any(|mail| mail.ends_with("not promised")), "{sent:?}");
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().failed), (2, 1));
}

/// The second worker, or the third, has what the first had; but a job that kills each is tried no more often than it may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_lose_nothing_and_poison_ends() {
    let Some(server) = Postgres::start().await else { return };
    let (pool, mails) = (server.pool().await, Mails::new().await);
    let queue = Queue::new(pool.clone()).await.expect("the tables can be made");
    let service = serve(app(queue.durable(), Supervisor::new())).await;
    assert_eq!(sign_up(service, "deadly").await.0, StatusCode::ACCEPTED);
    for attempt in 1..=ATTEMPTS {
        let worker = Worker::start(&url(&server), &mails);
        let sending = mails.next().await;
        assert_eq!(sending.mail, format!("{attempt} deadly"));
        if attempt == 1 {
            assert_eq!(sign_up(service, "deadly").await.0, StatusCode::ACCEPTED, "it is known by its address");
        }
        worker.kill().await;
    }
    assert_eq!(sign_up(service, "harmless").await.0, StatusCode::ACCEPTED);
    let worker = Worker::start(&url(&server), &mails);
    let sending = mails.next().await;
    assert_eq!(sending.mail, "1 harmless");
    worker.kill().await;

    let _worker = Worker::start(&url(&server), &mails);
    assert_eq!(mails.take().await, "2 harmless");
    until(&pool, &[("deadly", ATTEMPTS)]).await;
}
