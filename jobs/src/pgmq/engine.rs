//! What the worker and the queue call.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    PgmqEngine, channel, claims, listen, operations, send, sender::Command, sessions::Sessions,
};
use crate::{
    Error,
    bounds::within,
    engine::{Batch, Connection, Engine, Settled, Wake},
    info::{Depth, JobInfo, Which},
    message::{Claim, Headers, NewMessage},
    queue_name::QueueName,
};

/// A call over a connection.
type Call<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

impl PgmqEngine {
    /// Gives a command to the task that sends.
    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0
            .commands
            .send(command(reply))
            .map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Runs a call on the thread of the engine. It goes on there if the returned future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        sessions: &Arc<Sessions>,
        during: &'static str,
        call: impl for<'c> FnOnce(&'c mut PgConnection) -> Call<'c, T> + Send + 'static,
    ) -> Result<T, Error> {
        let sessions = Arc::clone(sessions);
        let run = async move { sessions.run(during, async move |c| call(c).await).await };
        self.0.thread.run(run).await
    }

    async fn work<T: Send + 'static>(
        &self,
        during: &'static str,
        call: impl for<'c> FnOnce(&'c mut PgConnection) -> Call<'c, T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(&self.0.work, during, call).await
    }

    async fn operate<T: Send + 'static>(
        &self,
        during: &'static str,
        call: impl for<'c> FnOnce(&'c mut PgConnection) -> Call<'c, T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(&self.0.durable, during, call).await
    }
}

#[async_trait]
impl Engine for PgmqEngine {
    async fn create(&self, queue: &QueueName) -> Result<(), Error> {
        let queue = queue.clone();
        self.operate("create", move |c| Box::pin(operations::create(c, queue)))
            .await
    }

    async fn send(&self, queue: &QueueName, message: NewMessage) -> Result<i64, Error> {
        if message.has_nul() {
            return Err(Error::Nul);
        }
        let queue = queue.clone();
        self.command(|reply| Command::Send {
            queue,
            message,
            reply,
        })
        .await
    }

    async fn send_in(
        &self,
        connection: Connection<'_>,
        queue: &QueueName,
        message: NewMessage,
    ) -> Result<i64, Error> {
        let Connection::Postgres(connection) = connection else {
            return Err(Error::WrongDatabase);
        };
        if message.has_nul() {
            return Err(Error::Nul);
        }
        let sent = send::send_one(connection, queue, &message);
        within("push_in", self.0.bound, sent).await
    }

    async fn release(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.command(|reply| Command::Release { queue, id, reply })
            .await
    }

    async fn discard(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.command(|reply| Command::Discard { queue, id, reply })
            .await
    }

    async fn read(
        &self,
        queue: &QueueName,
        max: usize,
        invisible: Duration,
    ) -> Result<Batch, Error> {
        let queue = queue.clone();
        self.work("read", move |c| {
            Box::pin(claims::read(c, queue, max, invisible))
        })
        .await
    }

    async fn extend(
        &self,
        queue: &QueueName,
        claims: &[Claim],
        invisible: Duration,
    ) -> Result<Vec<i64>, Error> {
        let (queue, claims) = (queue.clone(), claims.to_vec());
        self.run(&self.0.extend, "extend", move |c| {
            Box::pin(claims::extend(c, queue, claims, invisible))
        })
        .await
    }

    async fn settle(&self, queue: &QueueName, settled: &[Settled]) -> Result<Vec<i64>, Error> {
        let (queue, settled) = (queue.clone(), settled.to_vec());
        self.work("settle", move |c| {
            Box::pin(claims::settle(c, queue, settled))
        })
        .await
    }

    fn wake(&self, queue: &QueueName) -> Wake {
        let notify = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let (options, bound) = (self.0.options.clone(), self.0.bound);
        let listen = listen::run(options, bound, channel(queue), Arc::clone(&notify));
        self.0
            .thread
            .handle()
            .spawn(stop.clone().run_until_cancelled_owned(listen));
        Wake::new(notify, Some(stop.drop_guard()))
    }

    /// Other clients of pgmq send without a notification.
    fn poll_interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn runtime(&self) -> Handle {
        self.0.thread.handle()
    }

    async fn queues(&self) -> Result<Vec<String>, Error> {
        self.operate("queues", |c| Box::pin(operations::queues(c)))
            .await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Depth, Error> {
        let queue = queue.clone();
        self.operate("depth", move |c| Box::pin(operations::depth(c, queue)))
            .await
    }

    async fn list(
        &self,
        queue: &QueueName,
        which: Which,
        after: i64,
        limit: usize,
    ) -> Result<Vec<JobInfo>, Error> {
        let queue = queue.clone();
        self.operate("list", move |c| {
            Box::pin(operations::list(c, queue, which, after, limit))
        })
        .await
    }

    async fn restore(
        &self,
        queue: &QueueName,
        id: i64,
        headers: &Headers,
    ) -> Result<Option<i64>, Error> {
        let (queue, headers) = (queue.clone(), headers.clone());
        self.operate("retry", move |c| {
            Box::pin(operations::restore(c, queue, id, headers))
        })
        .await
    }

    async fn hurry(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.operate("retry", move |c| Box::pin(operations::hurry(c, queue, id)))
            .await
    }

    async fn remove(&self, queue: &QueueName, id: i64) -> Result<bool, Error> {
        let queue = queue.clone();
        self.operate("discard", move |c| {
            Box::pin(operations::remove(c, queue, id))
        })
        .await
    }

    async fn purge(&self, queue: &QueueName, age: Duration) -> Result<u64, Error> {
        let queue = queue.clone();
        self.operate("purge", move |c| Box::pin(operations::purge(c, queue, age)))
            .await
    }
}
