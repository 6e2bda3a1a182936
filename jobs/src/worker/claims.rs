//! The messages that a worker has in hand, and the extension of their time.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{message::Claim, queue::Inner};

/// The messages that were read and whose end is not yet written.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<i64, Entry>>);

#[derive(Debug)]
struct Entry {
    claim: Claim,
    token: CancellationToken,
    /// The end is being written: the message may be deleted already.
    settling: bool,
}

impl Claims {
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn add(&self, claim: Claim, token: CancellationToken) {
        self.lock().insert(
            claim.id,
            Entry {
                claim,
                token,
                settling: false,
            },
        );
    }

    pub(super) fn settling(&self, claim: Claim) {
        if let Some(entry) = self.current(&mut self.lock(), claim) {
            entry.settling = true;
        }
    }

    pub(super) fn remove(&self, claim: Claim) {
        let mut claims = self.lock();
        if self.current(&mut claims, claim).is_some() {
            claims.remove(&claim.id);
        }
    }

    /// This worker may have read a message again that it had lost: then the entry is the new one's.
    #[allow(clippy::unused_self, reason = "reads as a question to the claims")]
    fn current<'a>(
        &self,
        claims: &'a mut MutexGuard<'_, HashMap<i64, Entry>>,
        claim: Claim,
    ) -> Option<&'a mut Entry> {
        claims
            .get_mut(&claim.id)
            .filter(|entry| entry.claim == claim)
    }

    fn all(&self) -> Vec<Claim> {
        self.lock().values().map(|entry| entry.claim).collect()
    }

    /// The tokens of those of `asked` that are no longer ours.
    fn lost(&self, asked: &[Claim], kept: &HashSet<i64>) -> Vec<(i64, CancellationToken)> {
        let mut claims = self.lock();
        let gone = asked.iter().filter(|claim| !kept.contains(&claim.id));
        gone.filter_map(|claim| {
            let entry = self
                .current(&mut claims, *claim)
                .filter(|entry| !entry.settling)?;
            Some((claim.id, entry.token.clone()))
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Extends the time of all claims, three times in the time that a message is invisible.
pub(super) async fn extend(inner: &Inner, claims: &Claims, invisible: Duration) {
    let mut pause = invisible / 3;
    loop {
        sleep(pause).await;
        pause = invisible / 3;
        let asked = claims.all();
        for asked in asked.chunks(1_000) {
            match inner.engine.extend(&inner.name, asked, invisible).await {
                Ok(kept) => {
                    let kept = kept.into_iter().collect();
                    for (id, token) in claims.lost(asked, &kept) {
                        if !token.is_cancelled() {
                            let queue = inner.name.as_str();
                            tracing::warn!(queue, id, "another worker has taken this job");
                            token.cancel();
                        }
                    }
                }
                Err(error) => {
                    let queue = inner.name.as_str();
                    tracing::warn!(queue, %error, "the time of running jobs was not extended");
                    pause = invisible / 10;
                }
            }
        }
    }
}
