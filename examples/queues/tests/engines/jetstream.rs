//! JetStream keeps what it acknowledged, and has the settings that the guide names.

use std::time::Duration;

use async_nats::jetstream::{
    AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{DiscardPolicy, RetentionPolicy, StorageType},
};

use futures_util::StreamExt;
use queues::{
    Mail,
    jetstream::{connect, push, setup},
};

use crate::support::{
    DEAD_AFTER, Mails, Nats, Service, eventually,
    mails::OK,
    nats::{connected, messages},
    service::Worker,
    soon,
};

/// More messages than any test stores.
const MANY: i64 = 100;

#[tokio::test]
async fn a_job_survives_the_service_and_the_server_that_took_it() {
    let Some(mut server) = Nats::start() else {
        return;
    };
    let (mails, nats) = (Mails::new().await, server.connect(MANY).await);
    let service = Service::start("jetstream", "", &server.url()).await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    service.kill().await;
    server.restart();

    let worker = Worker::start("jetstream", "", &server.url(), &mails);
    assert_eq!(mails.take().await, "ada");
    eventually("the job is done", async || {
        messages(&nats, "mails").await == Some(0)
    })
    .await;
    worker.stop().await;
}

/// The server is away. The durable form tells the client, the other one does not.
#[tokio::test]
async fn a_push_after_the_answer_is_lost_if_the_server_is_away() {
    let Some(mut server) = Nats::start() else {
        return;
    };
    let nats = server.connect(MANY).await;
    let service = Service::start("jetstream", "", &server.url()).await;
    assert_eq!(service.post("/sign-up-lossy", "ada").await, 202);
    eventually("the mail is stored after the answer", async || {
        messages(&nats, "mails").await == Some(1)
    })
    .await;

    server.kill();
    eventually("the service knows", async || {
        service.post("/sign-up", "bob").await == 503
    })
    .await;
    assert_eq!(service.post("/sign-up-lossy", "eve").await, 202);
    service.kill().await;
    server.restart();
    eventually("the client is connected", async || {
        messages(&nats, "mails").await.is_some()
    })
    .await;
    assert_eq!(messages(&nats, "mails").await, Some(1));
}

#[tokio::test]
async fn a_repeated_request_stores_one_job() {
    let Some(server) = Nats::start() else { return };
    let nats = server.connect(MANY).await;
    let service = Service::start("jetstream", "", &server.url()).await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(service.post("/sign-up", "bob").await, 202);
    assert_eq!(messages(&nats, "mails").await, Some(2));
    // A header can have no line break, so no id has one.
    assert_eq!(service.post("/sign-up", "line\nbreak").await, 503);
}

#[tokio::test]
async fn a_full_stream_refuses_jobs_and_keeps_the_old_ones() {
    let Some(server) = Nats::start() else { return };
    let (mails, nats) = (Mails::new().await, server.connect(2).await);
    let service = Service::start("jetstream", "", &server.url()).await;
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(service.post("/sign-up", "bob").await, 202);
    assert_eq!(service.post("/sign-up", "eve").await, 503);
    assert_eq!(messages(&nats, "mails").await, Some(2));

    let _worker = Worker::start("jetstream", "", &server.url(), &mails);
    assert_eq!(mails.take().await, "ada");
    assert_eq!(mails.take().await, "bob");
}

/// One job fails once, and one panics once. The worker of the second job is killed. A message that is no job is
/// moved away.
#[tokio::test]
async fn failed_jobs_and_jobs_of_dead_workers_run_again() {
    let Some(server) = Nats::start() else { return };
    let (mails, nats) = (Mails::new().await, server.connect(MANY).await);
    let service = Service::start("jetstream", "", &server.url()).await;
    let published = nats.publish("mails", "no job".into()).await;
    published.unwrap().await.unwrap();
    assert_eq!(service.post("/sign-up", "ada").await, 202);
    assert_eq!(service.post("/sign-up", "eve").await, 202);
    let worker = Worker::start("jetstream", "", &server.url(), &mails);
    mails.fail_two().await;

    assert_eq!(service.post("/sign-up", "bob").await, 202);
    let _first = mails.next().await;
    worker.kill().await;
    let _worker = Worker::start("jetstream", "", &server.url(), &mails);
    assert_eq!(mails.take().await, "bob");
    eventually("both jobs are done", async || {
        messages(&nats, "mails").await == Some(0)
    })
    .await;
    assert_eq!(messages(&nats, "mails-failed").await, Some(1));
}

/// A worker that lives keeps its job for longer than `ack_wait`.
#[tokio::test]
async fn a_long_job_runs_once() {
    let Some(server) = Nats::start() else { return };
    let (mails, nats) = (Mails::new().await, server.connect(MANY).await);
    let service = Service::start("jetstream", "", &server.url()).await;
    let _workers = [(); 2].map(|()| Worker::start("jetstream", "", &server.url(), &mails));
    assert_eq!(service.post("/sign-up", "slow").await, 202);
    let slow = mails.next().await;
    // The second worker gets each of these jobs, and never the slow one again.
    let started = tokio::time::Instant::now();
    for number in 0.. {
        let address = format!("quick {number}");
        assert_eq!(service.post("/sign-up", &address).await, 202);
        assert_eq!(mails.take().await, address);
        if started.elapsed() > DEAD_AFTER * 2 {
            break;
        }
    }
    slow.answer(OK).await;
    eventually("all jobs are done", async || {
        messages(&nats, "mails").await == Some(0)
    })
    .await;
}

#[tokio::test]
async fn the_settings_are_those_of_the_guide() {
    let Some(server) = Nats::start() else { return };
    let (mails, nats) = (Mails::new().await, server.connect(MANY).await);
    let stream = nats.get_stream("mails").await.unwrap();
    let config = stream.cached_info().config.clone();
    assert_eq!(config.retention, RetentionPolicy::WorkQueue);
    assert_eq!(config.storage, StorageType::File);
    assert_eq!(config.discard, DiscardPolicy::New);
    assert_eq!(config.max_messages, MANY);
    assert_eq!(config.num_replicas, 1);
    assert_eq!(config.duplicate_window, Duration::from_mins(2));

    let _worker = Worker::start("jetstream", "", &server.url(), &mails);
    let mut consumer: Option<PullConsumer> = None;
    eventually("the worker creates its consumer", async || {
        consumer = stream.get_consumer("mailer").await.ok();
        consumer.is_some()
    })
    .await;
    let consumer = consumer.unwrap();
    let config = &consumer.cached_info().config;
    assert_eq!(config.ack_policy, AckPolicy::Explicit);
    assert_eq!(config.ack_wait, DEAD_AFTER);
    assert!(config.max_deliver <= 0, "without a limit");
    assert!(connected(&nats));
}

/// Each message is on three servers, and any one of them can die for good.
#[tokio::test]
async fn a_cluster_with_three_replicas_outlives_one_server() {
    let Some(mut servers) = Nats::cluster() else {
        return;
    };
    let mails = Mails::new().await;
    let url = servers[0].url();
    let nats = connect(&url).await.unwrap();
    eventually("the cluster has elected its leaders", async || {
        connected(&nats) && setup(&nats, 3, MANY).await.is_ok()
    })
    .await;
    let service = Service::start("jetstream", "", &url).await;
    eventually("the stream has a leader", async || {
        service.post("/sign-up", "ada").await == 202
    })
    .await;
    let stream = nats.get_stream("mails").await.unwrap();
    let info = stream.cached_info();
    assert_eq!((info.config.num_replicas, info.state.messages), (3, 1));
    let cluster = info.cluster.as_ref().unwrap();
    assert_eq!(cluster.replicas.len(), 2);
    let leader = cluster.leader.as_ref().unwrap();
    let leader: usize = leader.strip_prefix("server-").unwrap().parse().unwrap();
    service.kill().await;
    servers[leader].kill();

    let url = servers[(leader + 1) % 3].url();
    let _worker = Worker::start("jetstream", "", &url, &mails);
    assert_eq!(mails.take().await, "ada");
}

#[tokio::test]
async fn a_job_that_was_tried_too_often_is_moved_away() {
    let Some(server) = Nats::start() else { return };
    let (mails, nats) = (Mails::new().await, server.connect(MANY).await);
    let stream = nats.get_stream("mails").await.unwrap();
    let config = pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_wait: DEAD_AFTER,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mail = Mail {
        to: "ada".to_owned(),
    };
    push(&nats, "ada", &mail).await.unwrap();
    for _ in 0..10 {
        let mut batch = consumer.batch().max_messages(1).messages().await.unwrap();
        let message = soon("it is delivered", batch.next())
            .await
            .unwrap()
            .unwrap();
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    let _worker = Worker::start("jetstream", "", &server.url(), &mails);
    eventually("it is moved", async || {
        messages(&nats, "mails").await == Some(0)
            && messages(&nats, "mails-failed").await == Some(1)
    })
    .await;
}
