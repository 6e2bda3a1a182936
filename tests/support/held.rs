//! Tasks that run until the test lets them go, and tell when they have started.

use std::sync::Arc;

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
        Self { started, starts: Arc::new(Mutex::new(starts)), go: Arc::new(Semaphore::new(0)) }
    }

    /// An asynchronous task.
    pub fn task(&self, name: impl Into<String>) -> Task {
        let name = name.into();
        let (started, go, told) = (self.started.clone(), Arc::clone(&self.go), name.clone());
        Task::new(async move {
            started.send(told).expect("the test is there");
            go.acquire().await.expect("it is never closed").forget();
        })
        .named(name)
    }

    /// A blocking task.
    pub fn blocking(&self, name: impl Into<String>) -> Task {
        let name = name.into();
        let (started, go, told) = (self.started.clone(), Arc::clone(&self.go), name.clone());
        let runtime = tokio::runtime::Handle::current();
        Task::blocking(move |_| {
            started.send(told).expect("the test is there");
            runtime.block_on(go.acquire()).expect("it is never closed").forget();
        })
        .named(name)
    }

    /// The next task that has started.
    pub async fn started(&self) -> String {
        soon(self.starts.lock().await.recv()).await.expect("this holds a sender")
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
