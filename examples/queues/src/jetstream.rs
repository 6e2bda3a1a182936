//! [JetStream](https://docs.nats.io/nats-concepts/jetstream) of NATS as a destination: it keeps durable jobs, and holds none.
//!
//! A message is durable when the server has acknowledged it. It is delivered as soon as a consumer asks for it: nothing in a
//! stream starts at a time, or later than it was written. Servers from 2.12 on can publish a message at a time, which was not
//! tried.

use std::time::Duration;

use async_nats::{
    ConnectOptions, HeaderValue,
    connection::State,
    header::NATS_MESSAGE_ID,
    jetstream::{
        AckKind, Context, Message,
        consumer::{AckPolicy, pull},
        context::ContextBuilder,
        message::PublishMessage,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use tower_background::{BoxError, HandOff};

use crate::{ATTEMPTS, Mail, MailServer};

/// Where mails wait, and where those are put that can't be sent.
const STREAM: &str = "mails";
const ASIDE: &str = "mails-aside";

/// Connects, now or as soon as the server is there.
pub async fn connect(url: &str) -> Result<Context, BoxError> {
    let client = ConnectOptions::new().retry_on_initial_connect().connect(url).await?;
    // As long waits a client for its 503, if the server does not answer.
    Ok(ContextBuilder::new().timeout(Duration::from_secs(5)).build(client))
}

/// Makes the streams, or brings them up to date.
pub async fn setup(context: &Context, max_messages: i64) -> Result<(), BoxError> {
    let stream = |name: &str| Config {
        name: name.to_owned(),
        subjects: vec![name.to_owned()],
        storage: StorageType::File,
        // What the server acknowledges outlives its process. It comes to the disk later, by the server's own `sync_interval`, two
        // minutes if nobody sets it: a power cut loses that, unless there are three servers, or the interval is `always`.
        num_replicas: 1,
        ..Config::default()
    };
    context
        .create_or_update_stream(Config {
            // A job is gone when it is done.
            retention: RetentionPolicy::WorkQueue,
            max_messages,
            // A stream that is full drops its oldest jobs otherwise, and tells nobody.
            discard: DiscardPolicy::New,
            // For how long a mail is known by its id, also after it is sent.
            duplicate_window: Duration::from_mins(2),
            ..stream(STREAM)
        })
        .await?;
    context.create_or_update_stream(stream(ASIDE)).await?;
    Ok(())
}

/// Mails that the server has stored before the head of their response.
#[must_use]
pub fn durable(context: &Context) -> HandOff<Mail> {
    let context = context.clone();
    HandOff::durable(service_fn(move |mail: Mail| {
        let context = context.clone();
        async move { push(&context, &mail).await }
    }))
}

async fn push(context: &Context, mail: &Mail) -> Result<(), BoxError> {
    // The client keeps what it can't send, and sends it when the server is back: a job of which the caller heard long ago that it
    // was not taken. That can't be ruled out, as the connection may break now; it need not be the rule.
    if context.client().connection_state() != State::Connected {
        return Err("there is no connection to NATS".into());
    }
    // Not by `message_id`, which panics if it has the end of a line in it.
    let id: HeaderValue = mail.address.parse()?;
    let message = PublishMessage::build().payload(serde_json::to_vec(mail)?.into()).header(NATS_MESSAGE_ID, id);
    // Two stages: with the first the client has the message, with the second the server.
    let stored = context.send_publish(STREAM, message).await?;
    stored.await?;
    Ok(())
}

/// Sends mails, one at a time, until it is told to stop. Call it as often as there should be mails at a time.
///
/// What a worker had that was silent for `dead_after` is delivered to another.
pub async fn work(context: Context, server: MailServer, dead_after: Duration, stop: CancellationToken) {
    while let Err(error) = consume(&context, server, dead_after, &stop).await {
        eprintln!("the worker begins anew: {error}");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn consume(context: &Context, server: MailServer, dead_after: Duration, stop: &CancellationToken) -> Result<(), BoxError> {
    let config = pull::Config {
        durable_name: Some("mailer".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: dead_after,
        // No `max_deliver`: what has been delivered that often stays in the stream, where nobody sees it. `attempt` counts.
        ..pull::Config::default()
    };
    let consumer = context.get_stream(STREAM).await?.create_consumer(config).await?;
    loop {
        // Asked for when it can begin. The stream of `messages` asks ahead, and again while a job takes long: the time of what it
        // has then runs out, and its attempts with that, while it waits for the job in hand.
        let asked = consumer.batch().max_messages(1).expires(Duration::from_secs(5)).messages();
        let next = async { Ok::<_, BoxError>(asked.await?.next().await) };
        let message = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            message = next => message?,
        };
        if let Some(message) = message {
            attempt(context, server, dead_after, &message?).await?;
        }
    }
}

async fn attempt(context: &Context, server: MailServer, dead_after: Duration, message: &Message) -> Result<(), BoxError> {
    let attempt = message.info()?.delivered;
    let mail = match serde_json::from_slice::<Mail>(&message.payload) {
        Ok(mail) if attempt <= i64::from(ATTEMPTS) => mail,
        // Before it begins, and so also a job that has killed each worker.
        Ok(_) => return put_aside(context, message, "it was tried too often").await,
        Err(_) => return put_aside(context, message, "it is no mail").await,
    };
    // A task of its own, so that a panic is a failure as any other.
    let mut job = tokio::spawn(server.send(mail, attempt));
    let ended = loop {
        match tokio::time::timeout(dead_after / 3, &mut job).await {
            Ok(ended) => break ended,
            // One that takes longer would be delivered to another while it runs.
            Err(_) => drop(message.ack_with(AckKind::Progress).await),
        }
    };
    match ended {
        // The server answers. If its answer is lost, the mail is sent again.
        Ok(Ok(())) => message.double_ack().await,
        Ok(Err(error)) => again(message, attempt, &error.to_string()).await,
        Err(panic) => again(message, attempt, &panic.to_string()).await,
    }
}

/// Has the server deliver it later.
async fn again(message: &Message, attempt: i64, error: &str) -> Result<(), BoxError> {
    eprintln!("attempt {attempt} failed: {error}");
    let seconds = 1 << attempt.clamp(1, 10);
    message.ack_with(AckKind::Nak(Some(Duration::from_secs(seconds)))).await
}

/// Moves what can't be done to where somebody may look at it. If a move is cut off between its steps, it is made again.
async fn put_aside(context: &Context, message: &Message, why: &str) -> Result<(), BoxError> {
    let id = message.info()?.stream_sequence.to_string();
    let copy = PublishMessage::build().payload(message.payload.clone()).header(NATS_MESSAGE_ID, id).header("Why", why);
    context.send_publish(ASIDE, copy).await?.await?;
    message.double_ack().await
}
