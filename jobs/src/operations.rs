//! What an operator can do with a queue.

use std::time::Duration;

use crate::{
    Error,
    engine::Engine,
    info::{Depth, JobInfo, Which},
    message::reset,
    queue::JobQueue,
};

/// Operations.
impl<J> JobQueue<J> {
    /// Counts the jobs. This reads the whole queue.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] or an error of the database. The same holds for all operations.
    pub async fn depth(&self) -> Result<Depth, Error> {
        self.inner.call("depth", Engine::depth).await
    }

    /// Lists jobs that are not done, by their id, after the job `after`.
    ///
    /// # Errors
    ///
    /// As [`depth`](Self::depth).
    pub async fn list_queued(&self, after: i64, limit: usize) -> Result<Vec<JobInfo>, Error> {
        self.inner
            .call("list", |engine, name| {
                engine.list(name, Which::Queued, after, limit)
            })
            .await
    }

    /// Lists jobs that failed for good, by their id, after the job `after`.
    ///
    /// # Errors
    ///
    /// As [`depth`](Self::depth).
    pub async fn list_archived(&self, after: i64, limit: usize) -> Result<Vec<JobInfo>, Error> {
        self.inner
            .call("list", |engine, name| {
                engine.list(name, Which::Archived, after, limit)
            })
            .await
    }

    /// Finds a job by its id. `None` means that the job is done, or was deleted.
    ///
    /// # Errors
    ///
    /// As [`depth`](Self::depth).
    pub async fn find(&self, id: i64) -> Result<Option<JobInfo>, Error> {
        self.inner
            .call("find", |engine, name| engine.find(name, id))
            .await
    }

    /// Runs a job now. A job that failed for good starts anew and gets a new id, which is returned.
    /// A job that waits for a later time becomes visible.
    ///
    /// A job that runs at the moment is also visible then, so it can run twice.
    ///
    /// # Errors
    ///
    /// As [`depth`](Self::depth).
    pub async fn retry(&self, id: i64) -> Result<Option<i64>, Error> {
        let Some(job) = self.find(id).await? else {
            return Ok(None);
        };
        if job.archived_at.is_some() {
            let headers = reset(&job.headers);
            self.inner
                .call("retry", |engine, name| engine.restore(name, id, &headers))
                .await
        } else {
            let hurried = self
                .inner
                .call("retry", |engine, name| engine.hurry(name, id))
                .await?;
            Ok(hurried.then_some(id))
        }
    }

    /// Deletes a job, whether it waits or failed for good. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// As [`depth`](Self::depth).
    pub async fn discard(&self, id: i64) -> Result<bool, Error> {
        self.inner
            .call("discard", |engine, name| engine.remove(name, id))
            .await
    }

    /// Deletes jobs that failed for good longer ago than `age`. Returns how many.
    ///
    /// Workers do this each hour, see [`Worker::keep_archived`](crate::Worker::keep_archived).
    ///
    /// # Errors
    ///
    /// As [`depth`](Self::depth).
    pub async fn purge(&self, age: Duration) -> Result<u64, Error> {
        let mut purged = 0;
        loop {
            let some = self
                .inner
                .call("purge", |engine, name| engine.purge(name, age))
                .await?;
            purged += some;
            if some < 10_000 {
                return Ok(purged);
            }
        }
    }
}
