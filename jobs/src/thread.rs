//! The thread on which an engine talks to its database.

use std::{future::Future, io, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;

/// A thread with a runtime for one engine. It ends when this value is dropped.
///
/// Handlers run in the user's runtime. If one blocks a thread there, the engine still extends the
/// jobs that run, and it still writes. A call that its caller drops goes on here to its end, so no
/// connection is left inside a transaction.
#[derive(Debug)]
pub(crate) struct EngineThread {
    handle: Handle,
    _stop: DropGuard,
}

impl EngineThread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        thread::Builder::new()
            .name("background-jobs".to_owned())
            .spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self {
            handle,
            _stop: stop.drop_guard(),
        })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs a call on the thread. Dropping the returned future does not stop the call.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.handle.spawn(call).await.unwrap_or(Err(Error::Stopped))
    }
}
