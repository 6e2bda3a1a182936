//! [`Held`]: a job that is written, but that workers can not see until a response has ended.
//!
//! This file and `worker/observers.rs` are the only ones that use `tower-background`.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tower_background::{ResponseEnd, Task, When};

use crate::{
    BoxError, Error,
    options::PushOptions,
    queue::{Inner, JobQueue},
};

/// A push of a held job, made by [`JobQueue::hold`].
#[derive(Debug)]
pub struct Hold<'q, J> {
    queue: &'q JobQueue<J>,
    grace: Duration,
    options: PushOptions,
}

impl<'q, J> Hold<'q, J> {
    pub(crate) fn new(queue: &'q JobQueue<J>, grace: Duration) -> Self {
        Self {
            queue,
            grace,
            options: PushOptions::new(),
        }
    }

    /// Adds a header, which the handler finds in its [`JobContext`](crate::JobContext).
    #[must_use]
    pub fn header(self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self {
            options: self.options.header(name, value),
            ..self
        }
    }
}

impl<J: Serialize> Hold<'_, J> {
    /// Pushes the job, invisible for the grace.
    ///
    /// # Errors
    ///
    /// As [`JobQueue::push`].
    pub async fn push(self, job: &J) -> Result<Held, Error> {
        let until = Instant::now().checked_add(self.grace);
        let id = self
            .queue
            .push_with(job, self.options.delay(self.grace))
            .await?;
        Ok(Held {
            inner: Arc::clone(&self.queue.inner),
            id,
            until,
        })
    }

    /// Pushes the job in a transaction of yours, invisible for the grace.
    ///
    /// Add [`Held::into_task`] to a request only after the transaction has committed.
    ///
    /// # Errors
    ///
    /// As [`JobQueue::push_in`].
    pub async fn push_in<'c>(
        self,
        transaction: impl Into<crate::engine::Connection<'c>>,
        job: &J,
    ) -> Result<Held, Error> {
        let until = Instant::now().checked_add(self.grace);
        let options = self.options.delay(self.grace);
        let id = self.queue.push_in_with(transaction, job, options).await?;
        Ok(Held {
            inner: Arc::clone(&self.queue.inner),
            id,
            until,
        })
    }
}

/// A job that is written, but that workers can not see yet.
///
/// If this value is dropped, the job becomes visible when its grace is over.
#[derive(Debug)]
#[must_use = "the job waits for its grace unless it is released or discarded"]
pub struct Held {
    inner: Arc<Inner>,
    id: i64,
    /// The end of the grace. `None` if no clock goes that far.
    until: Option<Instant>,
}

impl Held {
    /// Returns the id of the job.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Makes the job visible. Returns `false` if it is visible already, or a worker has it or had it.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] after the bound of the queue, or an error of the database. The job then
    /// becomes visible when its grace is over.
    pub async fn release(&self) -> Result<bool, Error> {
        self.inner
            .call("release", |engine, name| engine.release(name, self.id))
            .await
    }

    /// Deletes the job. Returns `false` if a worker has it already, or had it.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub async fn discard(&self) -> Result<bool, Error> {
        self.inner
            .call("discard", |engine, name| engine.discard(name, self.id))
            .await
    }

    /// Returns the task that decides about the job when the response has ended.
    ///
    /// The task releases the job after a success, also if the client then left. It discards the
    /// job otherwise. A call that fails is tried again until the grace is over.
    pub fn into_task(self) -> Task {
        Task::with_context(move |cx| async move {
            let succeeded = cx.end().is_some_and(ResponseEnd::is_success);
            self.decide(succeeded, cx.cancelled()).await
        })
        .named("held job")
        .when(When::Always)
    }

    async fn decide(
        self,
        release: bool,
        cancelled: impl Future<Output = ()>,
    ) -> Result<(), BoxError> {
        let mut cancelled = std::pin::pin!(cancelled);
        let mut pause = Duration::from_millis(50);
        loop {
            let done = if release {
                self.release().await
            } else {
                self.discard().await
            };
            let Err(error) = done else { return Ok(()) };
            // Later tries would come to nothing: workers see the job by then.
            let next = Instant::now() + pause;
            if error.is_about_data() || self.until.is_some_and(|until| next >= until) {
                return Err(error.into());
            }
            tracing::warn!(queue = self.inner.name.as_str(), id = self.id, %error, "a held job waits");
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
            tokio::select! {
                () = sleep(jittered) => pause = (pause * 2).min(Duration::from_secs(5)),
                () = &mut cancelled => return Err(error.into()),
            }
        }
    }
}
