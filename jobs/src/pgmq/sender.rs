//! The task that sends. All messages that wait go as one batch.
//!
//! A few batches are under way at the same time, so that PostgreSQL writes them to disk together.
//! Their notification is a statement of its own: a transaction with a notification waits until no
//! other one commits. If it gets lost, workers find the messages by their next poll. Only a message
//! that is alone has its notification in the same statement, as there is nothing to wait for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{send, sessions::Sessions};
use crate::{Error, message::NewMessage, queue_name::QueueName};

const MAX_BATCH: usize = 1_000;
const BATCHES_UNDER_WAY: usize = 3;

type Answer<T> = oneshot::Sender<Result<T, Error>>;

#[derive(Debug)]
pub(super) enum Command {
    Send {
        queue: QueueName,
        message: NewMessage,
        reply: Answer<i64>,
    },
    Release {
        queue: QueueName,
        id: i64,
        reply: Answer<bool>,
    },
    Discard {
        queue: QueueName,
        id: i64,
        reply: Answer<bool>,
    },
}

impl Command {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Send { reply, .. } => reply.is_closed(),
            Self::Release { reply, .. } | Self::Discard { reply, .. } => reply.is_closed(),
        }
    }
}

/// What waits for one queue.
#[derive(Default)]
struct Waiting {
    messages: Vec<NewMessage>,
    senders: Vec<Answer<i64>>,
    releases: Vec<(i64, Answer<bool>)>,
    discards: Vec<(i64, Answer<bool>)>,
}

#[derive(Clone)]
pub(super) struct Sender {
    sessions: Arc<Sessions>,
    sent: mpsc::UnboundedSender<QueueName>,
}

impl Sender {
    /// Runs until the engine is dropped.
    pub(super) async fn run(
        sessions: Arc<Sessions>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        let (sent, notify) = mpsc::unbounded_channel();
        tokio::spawn(notify_workers(Arc::clone(&sessions), notify));
        let this = Self { sessions, sent };
        let under_way = Arc::new(Semaphore::new(BATCHES_UNDER_WAY));
        // More commands come while this waits, so batches grow with the load.
        while let Ok(permit) = Arc::clone(&under_way).acquire_owned().await {
            let mut batch = Vec::new();
            if commands.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return;
            }
            let this = this.clone();
            let others = under_way.available_permits() + 1 < BATCHES_UNDER_WAY;
            tokio::spawn(async move {
                this.perform(batch, others).await;
                drop(permit);
            });
        }
    }

    async fn perform(&self, mut batch: Vec<Command>, others: bool) {
        // Nobody waits any more: the caller has heard an error, or is gone.
        batch.retain(|command| !command.is_abandoned());
        for (queue, mut waiting) in by_queue(batch.into_iter()) {
            if let ([message], false) = (&waiting.messages[..], others) {
                let sent = self.send_one(&queue, message).await;
                waiting
                    .senders
                    .drain(..)
                    .for_each(|sender| drop(sender.send(sent.clone())));
                waiting.messages.clear();
            }
            self.send(&queue, waiting.messages, waiting.senders).await;
            self.change(&queue, "release", waiting.releases).await;
            self.change(&queue, "discard", waiting.discards).await;
        }
    }

    async fn send(&self, queue: &QueueName, messages: Vec<NewMessage>, senders: Vec<Answer<i64>>) {
        if messages.is_empty() {
            return;
        }
        match self.send_all(queue, &messages).await {
            Ok(ids) => answer_all(senders, ids),
            // One of them is refused: nothing was written, and the others can be.
            Err(error) if error.is_about_data() && messages.len() > 1 => {
                for (message, sender) in messages.iter().zip(senders) {
                    let sent = self.send_all(queue, std::slice::from_ref(message)).await;
                    drop(sender.send(sent.map(|ids| ids[0])));
                }
            }
            Err(error) => senders.into_iter().for_each(|sender| {
                drop(sender.send(Err(error.clone())));
            }),
        }
    }

    async fn send_one(&self, queue: &QueueName, message: &NewMessage) -> Result<i64, Error> {
        self.sessions
            .run("push", async |connection| {
                send::send_one(connection, queue, message).await
            })
            .await
    }

    async fn send_all(
        &self,
        queue: &QueueName,
        messages: &[NewMessage],
    ) -> Result<Vec<i64>, Error> {
        let ids = self
            .sessions
            .run("push", async |connection| {
                send::send(connection, queue, messages).await
            })
            .await?;
        let _ = self.sent.send(queue.clone());
        Ok(ids)
    }

    async fn change(
        &self,
        queue: &QueueName,
        during: &'static str,
        waiting: Vec<(i64, Answer<bool>)>,
    ) {
        if waiting.is_empty() {
            return;
        }
        let ids: Vec<i64> = waiting.iter().map(|(id, _)| *id).collect();
        let changed = self
            .sessions
            .run(during, async |connection| match during {
                "release" => send::release(connection, queue, &ids).await,
                _ => send::discard(connection, queue, &ids).await,
            })
            .await;
        match changed {
            Ok(changed) => waiting.into_iter().for_each(|(id, reply)| {
                drop(reply.send(Ok(changed.contains(&id))));
            }),
            Err(error) => waiting.into_iter().for_each(|(_, reply)| {
                drop(reply.send(Err(error.clone())));
            }),
        }
    }
}

/// Notifies the workers of each queue that got messages, once for all batches in between.
async fn notify_workers(sessions: Arc<Sessions>, mut sent: mpsc::UnboundedReceiver<QueueName>) {
    let mut queues = Vec::new();
    while sent.recv_many(&mut queues, MAX_BATCH).await > 0 {
        let queues: HashSet<QueueName> = queues.drain(..).collect();
        for queue in queues {
            let notified = sessions
                .run("notify", async |connection| {
                    send::notify(connection, &queue).await
                })
                .await;
            if let Err(error) = notified {
                tracing::debug!(queue = queue.as_str(), %error, "workers find messages by polls");
            }
        }
    }
}

fn by_queue(commands: impl Iterator<Item = Command>) -> HashMap<QueueName, Waiting> {
    let mut queues: HashMap<QueueName, Waiting> = HashMap::new();
    for command in commands {
        match command {
            Command::Send {
                queue,
                message,
                reply,
            } => {
                let waiting = queues.entry(queue).or_default();
                waiting.messages.push(message);
                waiting.senders.push(reply);
            }
            Command::Release { queue, id, reply } => {
                queues.entry(queue).or_default().releases.push((id, reply));
            }
            Command::Discard { queue, id, reply } => {
                queues.entry(queue).or_default().discards.push((id, reply));
            }
        }
    }
    queues
}

fn answer_all(senders: Vec<Answer<i64>>, ids: Vec<i64>) {
    for (sender, id) in senders.into_iter().zip(ids) {
        drop(sender.send(Ok(id)));
    }
}
