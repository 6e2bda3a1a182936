//! Jobs that may kill their process run alone, so they take no other job along.

use std::{pin::pin, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::run::Runner;
use crate::{
    engine::{Settled, Settlement},
    message::Message,
};

/// After this time a job that runs alone has shown that it does not kill its process at once.
const ALONE: Duration = Duration::from_mins(5);

impl<J: DeserializeOwned + Send + 'static> Runner<J> {
    /// Runs a job that may kill the process when no other job runs.
    ///
    /// Jobs that take longer than a message is invisible are not waited for: they would keep all
    /// others from starting.
    pub(super) async fn run_alone(&mut self, mut suspect: Message) {
        let invisible = self.config.invisible;
        let over = sleep(invisible);
        let mut over = pin!(over);
        while !self.running.is_empty() && !over.is_elapsed() && !self.stop.is_cancelled() {
            self.wait(over.as_mut()).await;
        }
        if self.stop.is_cancelled() {
            return self.give_back(&suspect, Duration::ZERO);
        }
        if !self.note_alone(&mut suspect).await {
            // The message becomes visible by itself.
            return self.claims.remove(suspect.claim);
        }
        let id = self.start(suspect);
        let mut over = pin!(sleep(ALONE));
        while self.running.contains_key(&id) && !over.is_elapsed() && !self.stop.is_cancelled() {
            self.wait(over.as_mut()).await;
        }
    }

    /// Writes to the message that its job runs alone. A read whose reply got lost looks the same as
    /// a death, so only this note shows later that the job really ran. Returns whether it is written.
    async fn note_alone(&self, suspect: &mut Message) -> bool {
        suspect.headers = suspect.before_run_alone();
        let note = Settled {
            claim: suspect.claim,
            end: Settlement::Return(self.config.invisible, suspect.headers.clone()),
        };
        let noted = self.inner.engine.settle(&self.inner.name, &[note]).await;
        if let Err(error) = &noted {
            let (queue, id) = (self.inner.name.as_str(), suspect.claim.id);
            tracing::warn!(queue, id, %error, "a job can not run alone yet");
        }
        noted.is_ok_and(|kept| !kept.is_empty())
    }
}
