//! Writes how jobs ended, many at a time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{claims::Claims, report::Counters};
use crate::{backoff::jitter, engine::Settled, queue::Inner};

const MAX_BATCH: usize = 1_000;

pub(super) struct Settler {
    pub(super) inner: Arc<Inner>,
    pub(super) claims: Arc<Claims>,
    pub(super) counters: Arc<Counters>,
}

impl Settler {
    /// Runs until the worker has ended and everything is written.
    pub(super) async fn run(self, mut ended: mpsc::UnboundedReceiver<Settled>) {
        let mut batch = Vec::new();
        while ended.recv_many(&mut batch, MAX_BATCH).await > 0 {
            for settled in &batch {
                self.claims.settling(settled.claim);
            }
            self.write(&batch).await;
            for settled in batch.drain(..) {
                self.claims.remove(settled.claim);
            }
        }
    }

    /// Tries until the database has it. Meanwhile the claims are extended, so the jobs do not run
    /// again.
    async fn write(&self, batch: &[Settled]) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.inner.engine.settle(&self.inner.name, batch).await {
                Ok(kept) => return self.note_lost(batch, &kept.into_iter().collect()),
                // One of them can not be written: the others can.
                Err(error) if error.is_about_data() && batch.len() > 1 => {
                    for settled in batch {
                        Box::pin(self.write(std::slice::from_ref(settled))).await;
                    }
                    return;
                }
                Err(error) if error.is_about_data() => {
                    let (queue, id) = (self.inner.name.as_str(), batch[0].claim.id);
                    tracing::error!(queue, id, %error, "the end of a job can not be written");
                    return;
                }
                Err(error) => {
                    let queue = self.inner.name.as_str();
                    tracing::warn!(queue, %error, "the ends of jobs are not yet written");
                    sleep(pause / 2 + jitter(pause)).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    fn note_lost(&self, batch: &[Settled], kept: &HashSet<i64>) {
        for settled in batch
            .iter()
            .filter(|settled| !kept.contains(&settled.claim.id))
        {
            self.counters.lose();
            let (queue, id) = (self.inner.name.as_str(), settled.claim.id);
            tracing::warn!(queue, id, "a job ended after another worker had taken it");
        }
    }
}
