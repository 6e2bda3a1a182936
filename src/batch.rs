//! The tasks that were released together, and the one tokio task that starts them.
//!
//! A response is released while the server holds its last bytes, just before they are written. A runner that yields once
//! comes to its tasks after the server's own task has run on, so after the write as a rule; tasks that were spawned from
//! the drop of the body would be taken by other workers before it.

use std::vec;

use tokio::runtime::Handle;

use crate::{end::ResponseEnd, job::Job, panics::quietly, task::Task, tasks::BackgroundTasks};

/// What the tasks of a batch have in common: their registry, and the end that released them.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    tasks: BackgroundTasks,
    unfinished: bool,
}

impl Release {
    pub(crate) const fn tasks(&self) -> &BackgroundTasks {
        &self.tasks
    }

    pub(crate) fn end(&self) -> &ResponseEnd {
        self.tasks.known_end(self.unfinished).expect("an end is known before tasks are released")
    }
}

/// The tasks that were released together.
pub(crate) struct Batch {
    release: Release,
    queue: vec::IntoIter<Task>,
}

impl Batch {
    pub(crate) fn new(tasks: BackgroundTasks, released: Vec<Task>) -> Self {
        let unfinished = !tasks.is_over();
        Self { release: Release { tasks, unfinished }, queue: released.into_iter() }
    }

    /// Hands the tasks to a runtime. Without one, or with one that has ended, they are cancelled.
    pub(crate) fn spawn(self, runtime: Option<&Handle>) {
        if let Some(runtime) = runtime {
            drop(runtime.spawn(self.run()));
        }
    }

    async fn run(mut self) {
        tokio::task::yield_now().await;
        let Some(first) = self.next() else { return };
        while let Some(job) = self.next() {
            drop(tokio::spawn(job.run()));
        }
        // The runner is a tokio task of its own already.
        first.run().await;
    }

    fn next(&mut self) -> Option<Job> {
        self.queue.next().map(|task| Job::new(self.release.clone(), task))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Reached with tasks only if nothing will run them: there is no runtime, or it went down.
        while let Some(job) = self.next() {
            quietly(|| drop(job));
        }
    }
}
