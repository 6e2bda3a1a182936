//! Tasks that report their start, and run until the test releases them.

use std::{pin::pin, sync::Arc};

use futures_util::future::poll_immediate;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tower_background::Task;

use super::soon;

/// Makes tasks, and holds them.
#[derive(Debug, Clone)]
pub struct Held {
    started: mpsc::UnboundedSender<String>,
    starts: Arc<Mutex<mpsc::UnboundedReceiver<String>>>,
    go: Arc<Semaphore>,
}

impl Held {
    pub fn new() -> Self {
        let (started, starts) = mpsc::unbounded_channel();
        Self {
            started,
            starts: Arc::new(Mutex::new(starts)),
            go: Arc::new(Semaphore::new(0)),
        }
    }

    /// An asynchronous task.
    pub fn task(&self, name: impl Into<String>) -> Task {
        let (held, name) = (self.clone(), name.into());
        Task::new(held.hold(name.clone())).named(name)
    }

    /// A blocking task.
    pub fn blocking(&self, name: impl Into<String>) -> Task {
        let (held, name) = (self.clone(), name.into());
        let (runtime, told) = (tokio::runtime::Handle::current(), name.clone());
        Task::blocking(move || runtime.block_on(held.hold(told))).named(name)
    }

    /// Reports that the task has started, and waits for a permit. It queues for the permit before
    /// it reports, so that permits go to the tasks in the order of their reports.
    pub async fn hold(self, name: String) {
        let mut go = pin!(self.go.acquire());
        let at_once = poll_immediate(go.as_mut()).await;
        self.started.send(name).expect("the test is there");
        let going = match at_once {
            Some(going) => going,
            None => go.await,
        };
        going.expect("it is never closed").forget();
    }

    /// The next task that has started.
    pub async fn started(&self) -> String {
        soon(self.starts.lock().await.recv())
            .await
            .expect("this holds a sender")
    }

    /// Whether a task has started that `started` has not given.
    pub async fn has_started(&self) -> bool {
        !self.starts.lock().await.is_empty()
    }

    /// Lets tasks end.
    pub fn let_go(&self, tasks: usize) {
        self.go.add_permits(tasks);
    }
}
