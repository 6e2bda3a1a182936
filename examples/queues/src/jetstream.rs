//! NATS JetStream: jobs are messages in a stream.

use std::time::Duration;

use async_nats::{
    ConnectOptions, HeaderValue,
    connection::State as Connection,
    header::NATS_MESSAGE_ID,
    jetstream::{
        AckKind, Context, Message,
        consumer::{AckPolicy, pull},
        context::ContextBuilder,
        message::PublishMessage,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use axum::{extract::State, http::StatusCode};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tower_background::{BackgroundTasks, BoxError, Task};

use crate::{Mail, MailServer, to_the_end};

const STREAM: &str = "mails";
/// Jobs that were tried too often, and messages that are no jobs.
const FAILED: &str = "mails-failed";
const ATTEMPTS: i64 = 10;

/// Connects in the background, so a service can start before NATS. A call that gets no answer ends
/// after 5 s.
pub async fn connect(url: &str) -> Result<Context, BoxError> {
    let options = ConnectOptions::new().retry_on_initial_connect();
    let builder = ContextBuilder::new().timeout(Duration::from_secs(5));
    Ok(builder.build(options.connect(url).await?))
}

/// Creates the streams, or changes their settings.
///
/// `replicas` should be 3, on a cluster of 3 servers. One server writes messages to its disk later,
/// within 2 minutes by default, and can lose them in a power cut.
pub async fn setup(nats: &Context, replicas: usize, max_messages: i64) -> Result<(), BoxError> {
    let stream = |name: &str| Config {
        name: name.to_owned(),
        subjects: vec![name.to_owned()],
        storage: StorageType::File,
        num_replicas: replicas,
        ..Config::default()
    };
    nats.create_or_update_stream(Config {
        // A message is deleted when it is acknowledged.
        retention: RetentionPolicy::WorkQueue,
        // A full stream refuses new messages. By default it deletes old ones without a word.
        max_messages,
        discard: DiscardPolicy::New,
        // A message with an id that the stream saw in this time is not stored again.
        duplicate_window: Duration::from_mins(2),
        ..stream(STREAM)
    })
    .await?;
    nats.create_or_update_stream(stream(FAILED)).await?;
    Ok(())
}

/// Publishes a mail. Returns when the server has stored it.
pub async fn push(nats: &Context, id: &str, mail: &Mail) -> Result<(), BoxError> {
    // The client keeps messages for a server that is away, and sends them when the server is back,
    // long after the caller saw an error.
    if nats.client().connection_state() != Connection::Connected {
        return Err("there is no connection to NATS".into());
    }
    // `message_id` would panic for an id with a line break.
    let message = PublishMessage::build()
        .header(NATS_MESSAGE_ID, id.parse::<HeaderValue>()?)
        .payload(serde_json::to_vec(mail)?.into());
    // The first await hands the message to the client, the second one waits for the server.
    nats.send_publish(STREAM, message).await?.await?;
    Ok(())
}

/// The mail is stored before the client has its answer. The same address is stored once in the
/// `duplicate_window`.
pub async fn sign_up(State(nats): State<Context>, address: String) -> StatusCode {
    to_the_end(async move {
        let mail = Mail { to: address };
        push(&nats, &mail.to, &mail).await
    })
    .await
}

/// The client gets its answer first. The mail is lost if the process dies, or NATS is away.
pub async fn sign_up_lossy(
    State(nats): State<Context>,
    tasks: BackgroundTasks,
    address: String,
) -> StatusCode {
    let mail = Mail { to: address };
    let push = async move { push(&nats, &mail.to, &mail).await };
    tasks.add(Task::new(push).named("push-mail"));
    StatusCode::ACCEPTED
}

/// Runs one job at a time until `stop`. Call this several times for more jobs at a time.
pub async fn work(
    nats: Context,
    server: MailServer,
    dead_after: Duration,
    stop: CancellationToken,
) {
    while let Err(error) = run(&nats, server, dead_after, &stop).await {
        tracing::warn!(%error, "the worker starts again");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn run(
    nats: &Context,
    server: MailServer,
    dead_after: Duration,
    stop: &CancellationToken,
) -> Result<(), BoxError> {
    let config = pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_policy: AckPolicy::Explicit,
        // A message without an answer in this time goes to another worker.
        ack_wait: dead_after,
        // No `max_deliver`: messages above it would stay in the stream, and nobody would see them.
        ..pull::Config::default()
    };
    let stream = nats.get_stream(STREAM).await?;
    let consumer = stream.create_consumer(config).await?;
    loop {
        // One message at a time: the time of messages that wait in the client runs out.
        let batch = consumer.batch().max_messages(1);
        let batch = batch.expires(Duration::from_secs(5)).messages();
        let message = tokio::select! {
            message = async { Ok::<_, BoxError>(batch.await?.next().await) } => message?,
            () = stop.cancelled() => return Ok(()),
        };
        if let Some(message) = message {
            run_job(nats, server, dead_after, &message?).await?;
        }
    }
}

async fn run_job(
    nats: &Context,
    server: MailServer,
    dead_after: Duration,
    message: &Message,
) -> Result<(), BoxError> {
    let attempt = message.info()?.delivered;
    let mail: Mail = match serde_json::from_slice(&message.payload) {
        Ok(mail) if attempt <= ATTEMPTS => mail,
        _ => return set_aside(nats, message).await,
    };
    // A panic in a task of its own is an error of this job only.
    let mut job = tokio::spawn(async move { server.send(&mail).await });
    let ended = loop {
        match tokio::time::timeout(dead_after / 3, &mut job).await {
            Ok(ended) => break ended.map_err(BoxError::from).flatten(),
            // Without this, another worker would get a job that takes long.
            Err(_) => _ = message.ack_with(AckKind::Progress).await,
        }
    };
    match ended {
        Ok(()) => message.double_ack().await,
        Err(error) => {
            tracing::warn!(%error, attempt, "a job failed");
            let delay = Duration::from_secs(1 << attempt.clamp(0, 10));
            message.ack_with(AckKind::Nak(Some(delay))).await
        }
    }
}

/// Moves a message to the other stream, where an operator finds it.
async fn set_aside(nats: &Context, message: &Message) -> Result<(), BoxError> {
    // With the id, a move that stopped half-way and starts again stores the message once.
    let id = message.info()?.stream_sequence.to_string();
    let copy = PublishMessage::build()
        .header(NATS_MESSAGE_ID, id)
        .payload(message.payload.clone());
    nats.send_publish(FAILED, copy).await?.await?;
    message.double_ack().await
}
