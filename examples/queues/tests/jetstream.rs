//! What the destination over JetStream keeps, on a real `nats-server`, which is killed by SIGKILL as its workers are.
//!
//! Skipped where there is none, unless `TOWER_BACKGROUND_NO_SKIP` is set.

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use async_nats::{connection::State, jetstream::Context};
use futures_util::StreamExt;
use queues::{ATTEMPTS, app, jetstream::durable};
use reqwest::StatusCode;
use support::{Mails, Nats, Worker, connection, get, serve, sign_up, soon};
use tower_background::Supervisor;

/// More than any test writes.
const MANY: i64 = 100;

/// How many messages there are in a stream, if the server can tell.
async fn messages(context: &Context, stream: &str) -> Option<u64> {
    let stream = soon(context.get_stream(stream)).await.ok()?;
    Some(stream.cached_info().state.messages)
}

/// Waits until there are so many.
async fn until(context: &Context, stream: &str, number: u64) {
    soon(async {
        while messages(context, stream).await != Some(number) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The server is stopped where it is, so that nothing is acknowledged: nothing is promised, until it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_promised_is_stored_and_done() {
    let Some(server) = Nats::start() else { return };
    let (context, mails, supervisor) = (server.connect(MANY).await, Mails::new().await, Supervisor::new());
    let service = serve(app(durable(&context), supervisor.clone())).await;

    server.freeze();
    let sent = || context.client().statistics().out_messages.load(SeqCst);
    let before = sent();
    let signing_up = tokio::spawn(sign_up(service, "ada"));
    soon(async {
        while sent() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // An answer that waits for nothing more is there before those to two requests that come now.
    for _ in 0..2 {
        assert_eq!(get(service, "/other").await, StatusCode::NOT_FOUND);
    }
    assert!(!signing_up.is_finished(), "nothing is acknowledged yet");
    server.thaw();
    assert_eq!(soon(signing_up).await.expect("it does not panic").0, StatusCode::ACCEPTED);
    assert_eq!(messages(&context, "mails").await, Some(1), "it is stored before the head");

    assert_eq!(sign_up(service, "ada").await.0, StatusCode::ACCEPTED);
    assert_eq!(messages(&context, "mails").await, Some(1), "it is known by its id");
    assert_eq!(sign_up(service, "an\nend of a line").await.0, StatusCode::SERVICE_UNAVAILABLE, "no id has that");

    let _worker = Worker::start(&server.url(), &mails);
    assert_eq!(mails.take().await, "1 ada");
    until(&context, "mails", 0).await;
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().failed), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_or_killed_is_told_of_and_loses_no_job() {
    let Some(mut server) = Nats::start() else { return };
    let (context, mails, supervisor) = (server.connect(3).await, Mails::new().await, Supervisor::new());
    let service = serve(app(durable(&context), supervisor.clone())).await;
    for (address, status) in [
        ("done", StatusCode::ACCEPTED),
        ("begun", StatusCode::ACCEPTED),
        ("waiting", StatusCode::ACCEPTED),
        ("too many", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        assert_eq!(sign_up(service, address).await.0, status, "{address}");
    }
    let _worker = Worker::start(&server.url(), &mails);
    assert_eq!(mails.take().await, "1 done");
    let sending = mails.next().await;
    assert_eq!(sending.mail, "1 begun");

    server.kill();
    connection(&context, State::Disconnected).await;
    let (status, text) = sign_up(service, "not promised").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "a job was not handed off: its destination failed");
    sending.take().await;
    server.up();
    connection(&context, State::Connected).await;

    let sent = mails.take_all();
    until(&context, "mails", 0).await;
    assert_eq!(sign_up(service, "later").await.0, StatusCode::ACCEPTED);
    until(&context, "mails", 0).await;
    let sent = sent.lock().unwrap().clone();
    // What had begun may be there again, as nobody could be told that it was sent.
    assert!(["1 waiting", "1 later"].iter().all(|mail| sent.iter().any(|sent| sent == mail)), "{sent:?}");
    assert!(!sent.iter().any(|mail| mail.ends_with("not promised")), "{sent:?}");
    assert_eq!((supervisor.stats().handed_off, supervisor.stats().failed), (4, 2));
}

/// The second worker, or the third, has what the first had; but a job that kills each, and what is no job, is put aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_lose_nothing_and_poison_is_put_aside() {
    let Some(server) = Nats::start() else { return };
    let (context, mails) = (server.connect(MANY).await, Mails::new().await);
    let service = serve(app(durable(&context), Supervisor::new())).await;
    context.publish("mails", "no mail".into()).await.expect("it is sent").await.expect("it is stored");
    assert_eq!(sign_up(service, "deadly").await.0, StatusCode::ACCEPTED);
    for attempt in 1..=ATTEMPTS {
        let worker = Worker::start(&server.url(), &mails);
        let sending = mails.next().await;
        assert_eq!(sending.mail, format!("{attempt} deadly"));
        worker.kill().await;
    }
    assert_eq!(sign_up(service, "harmless").await.0, StatusCode::ACCEPTED);
    let worker = Worker::start(&server.url(), &mails);
    let sending = mails.next().await;
    assert_eq!(sending.mail, "1 harmless");
    worker.kill().await;

    let _worker = Worker::start(&server.url(), &mails);
    let sending = mails.next().await;
    assert_eq!(sending.mail, "2 harmless");
    sending.refuse().await;
    assert_eq!(mails.take().await, "3 harmless");
    until(&context, "mails", 0).await;
    until(&context, "mails-aside", 2).await;
}

/// While a job takes longer than a silent worker may, its worker tells that it lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_worker_keeps_its_job() {
    let Some(server) = Nats::start() else { return };
    let (context, mails) = (server.connect(MANY).await, Mails::new().await);
    let service = serve(app(durable(&context), Supervisor::new())).await;
    let mut acks = context.client().subscribe("$JS.ACK.>").await.expect("there is a connection");
    let _workers = [Worker::start(&server.url(), &mails), Worker::start(&server.url(), &mails)];
    assert_eq!(sign_up(service, "slow").await.0, StatusCode::ACCEPTED);
    let sending = mails.next().await;

    // Three in the time after which it would be delivered again.
    for _ in 0..7 {
        let ack = soon(acks.next()).await.expect("there is a connection");
        assert_eq!(&ack.payload[..], b"+WPI");
    }
    assert_eq!(sign_up(service, "quick").await.0, StatusCode::ACCEPTED);
    assert_eq!(mails.take().await, "1 quick", "and not the slow one again");
    sending.take().await;
    until(&context, "mails", 0).await;
}
