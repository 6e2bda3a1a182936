//! What the worker and the queue call.

use std::time::Duration;

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    SqliteEngine,
    commands::{Action, Command, Outcome},
    statements,
};
use crate::{
    Error,
    bounds::within,
    engine::{Batch, Connection, Engine, Settled, Wake},
    info::{Depth, JobInfo, Which},
    message::{Claim, Headers, NewMessage},
    queue_name::QueueName,
    time::{now, until},
};

impl SqliteEngine {
    /// Gives an action to the writer, which skips it if nobody waits any more.
    async fn write(&self, action: Action) -> Result<Outcome, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command { action, reply };
        self.0.commands.send(command).map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    async fn create(&self, queue: &QueueName) -> Result<(), Error> {
        let queue = queue.clone();
        self.write(Action::Create { queue }).await.map(drop)
    }

    async fn send(&self, queue: &QueueName, message: NewMessage) -> Result<i64, Error> {
        let queue = queue.clone();
        let sent = self.write(Action::Send { queue, message }).await?;
        sent.id().ok_or(Error::Stopped)
    }

    async fn send_in(
        &self,
        connection: Connection<'_>,
        queue: &QueueName,
        message: NewMessage,
    ) -> Result<i64, Error> {
        let Connection::Sqlite(connection) = connection else {
            return Err(Error::WrongDatabase);
        };
        within(
            "push_in",
            self.0.bound,
            statements::send_one(connection, queue, &message),
        )
        .await
    }

    async fn release(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        let outcome = self.write(Action::Release { queue, id }).await;
        outcome.map(Outcome::changed)
    }

    async fn discard(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        let outcome = self.write(Action::Discard { queue, id }).await;
        outcome.map(Outcome::changed)
    }

    async fn read(
        &self,
        queue: &QueueName,
        max: usize,
        invisible: Duration,
    ) -> Result<Batch, Error> {
        // An idle worker asks often. It only writes if there is something to read.
        let first = self.0.reader.first_visible(queue).await?;
        match first {
            Some(at) if at <= now() => {}
            Some(at) => {
                return Ok(Batch {
                    messages: Vec::new(),
                    next: Some(until(at)),
                });
            }
            None => return Ok(Batch::default()),
        }
        let wanted = queue.clone();
        let read = Action::Read {
            queue: wanted,
            max,
            invisible,
        };
        let messages = self.write(read).await?.messages();
        let next = if messages.len() < max {
            self.0.reader.first_visible(queue).await?.map(until)
        } else {
            Some(Duration::ZERO)
        };
        Ok(Batch { messages, next })
    }

    async fn extend(
        &self,
        queue: &QueueName,
        claims: &[Claim],
        invisible: Duration,
    ) -> Result<Vec<i64>, Error> {
        let (queue, claims) = (queue.clone(), claims.to_vec());
        self.write(Action::Extend {
            queue,
            claims,
            invisible,
        })
        .await
        .map(Outcome::ids)
    }

    async fn settle(&self, queue: &QueueName, settled: &[Settled]) -> Result<Vec<i64>, Error> {
        let (queue, settled) = (queue.clone(), settled.to_vec());
        self.write(Action::Settle { queue, settled })
            .await
            .map(Outcome::ids)
    }

    fn wake(&self, _queue: &QueueName) -> Wake {
        Wake::new(self.0.sleepers.add(), None)
    }

    /// Other processes and `push_in` write without a notification.
    fn poll_interval(&self) -> Duration {
        Duration::from_millis(150)
    }

    fn runtime(&self) -> Handle {
        self.0.thread.handle()
    }

    async fn queues(&self) -> Result<Vec<String>, Error> {
        self.0.reader.queues().await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Depth, Error> {
        self.0.reader.depth(queue).await
    }

    async fn list(
        &self,
        queue: &QueueName,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        self.0.reader.list(queue, which, after, limit).await
    }

    async fn restore(
        &self,
        queue: &QueueName,
        id: i64,
        headers: &Headers,
    ) -> Result<Option<i64>, Error> {
        let (queue, headers) = (queue.clone(), headers.clone());
        self.write(Action::Restore { queue, id, headers })
            .await
            .map(Outcome::id)
    }

    async fn hurry(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        let outcome = self.write(Action::Hurry { queue, id }).await;
        outcome.map(Outcome::changed)
    }

    async fn remove(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        let outcome = self.write(Action::Remove { queue, id }).await;
        outcome.map(Outcome::changed)
    }

    async fn purge(&self, queue: &QueueName, age: Duration) -> Result<u64, Error> {
        let queue = queue.clone();
        let outcome = self.write(Action::Purge { queue, age }).await;
        outcome.map(Outcome::count)
    }
}
