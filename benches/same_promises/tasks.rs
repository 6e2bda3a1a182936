//! The tasks of one request.

use std::{
    mem,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use http::Uri;
use tokio::runtime::Handle;

use super::{
    End, Supervisor,
    supervisor::{Key, Outcome},
};

tokio::task_local! {
    /// The request whose future, body or task is polled.
    pub(crate) static CURRENT: Tasks;
}

type Work = Pin<Box<dyn Future<Output = bool> + Send>>;

/// What a task may return: nothing, or a result.
pub(crate) trait Output {
    fn is_success(&self) -> bool;
}

impl Output for () {
    fn is_success(&self) -> bool {
        true
    }
}

impl<E> Output for Result<(), E> {
    fn is_success(&self) -> bool {
        self.is_ok()
    }
}

/// The handle that a handler finds in the extensions of its request.
#[derive(Clone)]
pub(crate) struct Tasks(Arc<Inner>);

struct Inner {
    supervisor: Supervisor,
    uri: Uri,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deferred: Vec<Deferred>,
    end: Option<End>,
}

/// A task that waits for the end of the response.
struct Deferred {
    key: Key,
    work: Work,
}

impl Tasks {
    pub(crate) fn new(supervisor: Supervisor, uri: Uri) -> Self {
        Self(Arc::new(Inner {
            supervisor,
            uri,
            state: Mutex::default(),
        }))
    }

    /// Returns the request whose future, body or task is polled.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }

    pub(crate) fn path(&self) -> &str {
        self.0.uri.path()
    }

    /// Returns how the response ended, once it has.
    pub(crate) fn response_end(&self) -> Option<End> {
        self.state().end
    }

    /// Adds a task. Returns `false` if the supervisor was shut down.
    pub(crate) fn add<F>(&self, name: &'static str, work: F) -> bool
    where
        F: Future<Output: Output> + Send + 'static,
    {
        let work: Work = Box::pin(async move { work.await.is_success() });
        let Some(key) = self.supervisor().insert(name, self.clone()) else {
            return false;
        };
        let task = Deferred { key, work };
        let mut state = self.state();
        if state.end.is_none() {
            state.deferred.push(task);
        } else {
            drop(state);
            self.start([task]);
        }
        true
    }

    /// Notes the end of the response, and starts its tasks.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.state();
        state.end = Some(end);
        let tasks = mem::take(&mut state.deferred);
        drop(state);
        if !tasks.is_empty() {
            self.start(tasks);
        }
    }

    fn start(&self, tasks: impl IntoIterator<Item = Deferred>) {
        // A body can be dropped outside of a runtime. Its tasks are then dropped, and counted as
        // aborted.
        let runtime = Handle::try_current();
        for Deferred { key, work } in tasks {
            let guard = Guard {
                request: self.clone(),
                key,
                outcome: Outcome::Aborted,
            };
            let task = Task { work, guard };
            if let Ok(runtime) = &runtime {
                let abort = runtime.spawn(task.run()).abort_handle();
                self.supervisor().started(key, abort);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that was started.
struct Task {
    // This field stands first, so that the work is dropped before the task is counted.
    work: Work,
    guard: Guard,
}

impl Task {
    async fn run(self) {
        // The guard is declared before the work runs, so that the work is dropped first.
        let mut guard = self.guard;
        let work = CURRENT.scope(guard.request.clone(), self.work);
        guard.outcome = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(true) => Outcome::Succeeded,
            Ok(false) => Outcome::Failed,
            Err(_) => Outcome::Panicked,
        };
    }
}

/// The drop of this value removes the task from the table and counts its outcome.
struct Guard {
    request: Tasks,
    key: Key,
    outcome: Outcome,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.request.supervisor().ended(self.key, self.outcome);
    }
}
