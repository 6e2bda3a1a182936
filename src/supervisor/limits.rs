//! How many tasks run at once: permits, first come, first served.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::coop::unconstrained,
};

/// The limits of a supervisor. Without a limit every permit is there at once.
#[derive(Debug)]
pub(super) struct Limits {
    concurrent: Option<Arc<Semaphore>>,
    blocking: Option<Arc<Semaphore>>,
}

/// The right to run: a permit for each limit that applies. Its drop gives them back.
type Permits = Vec<OwnedSemaphorePermit>;

/// The permits of a task, or a place in the queue for them. It is empty if no limit applies.
#[derive(Default)]
pub(crate) struct Acquire(Option<Box<State>>);

enum State {
    Ready(#[expect(dead_code, reason = "they are held for their drop")] Permits),
    Waiting(Waiting),
}

/// A place in the queue. It returns `None` if the supervisor closed its limits.
type Waiting = Pin<Box<dyn Future<Output = Option<Permits>> + Send>>;

impl Limits {
    pub(super) fn new(concurrent: Option<usize>, blocking: Option<usize>) -> Self {
        let semaphore = |limit: Option<usize>| limit.map(|limit| Arc::new(Semaphore::new(limit)));
        Self {
            concurrent: semaphore(concurrent),
            blocking: semaphore(blocking),
        }
    }

    /// Returns whether there is a limit.
    pub(super) const fn are_set(&self) -> bool {
        self.concurrent.is_some() || self.blocking.is_some()
    }

    /// Returns the limit for tasks of this kind.
    pub(super) const fn of(&self, is_blocking: bool) -> Option<&Arc<Semaphore>> {
        if is_blocking {
            self.blocking.as_ref()
        } else {
            self.concurrent.as_ref()
        }
    }

    /// Lets all who wait, and all who come later, go without a permit.
    pub(super) fn close(&self) {
        for semaphore in [&self.concurrent, &self.blocking].into_iter().flatten() {
            semaphore.close();
        }
    }
}

impl Acquire {
    /// The permits of a task that no limit applies to.
    pub(crate) const UNLIMITED: Self = Self(None);

    /// Waits for the permits. Returns `None` if the supervisor closed its limits.
    pub(crate) async fn acquired(&mut self) -> Option<()> {
        if let Some(state) = self.0.as_deref_mut() {
            if let State::Waiting(waiting) = state {
                *state = State::Ready(waiting.await?);
            }
        }
        Some(())
    }

    /// Returns whether the task has its permits.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        !matches!(self.0.as_deref(), Some(State::Waiting(_)))
    }

    /// Takes a permit of each limit, or the last place in the queue for the first limit that has
    /// none.
    pub(super) fn new(first: Option<&Arc<Semaphore>>, second: Option<&Arc<Semaphore>>) -> Self {
        if first.is_none() && second.is_none() {
            return Self::UNLIMITED;
        }
        let limits: Vec<_> = first.into_iter().chain(second).map(Arc::clone).collect();
        let acquire = async move {
            let mut permits = Vec::with_capacity(limits.len());
            for limit in limits {
                permits.push(limit.acquire_owned().await.ok()?);
            }
            Some(permits)
        };
        // Unconstrained, because a task that has used up its budget gets no place in the queue from
        // its first poll.
        let mut acquire = Box::pin(unconstrained(acquire));
        // The first poll takes the place. The task that awaits the future later brings its own
        // waker.
        let mut cx = Context::from_waker(Waker::noop());
        let state = match acquire.as_mut().poll(&mut cx) {
            Poll::Ready(Some(permits)) => State::Ready(permits),
            Poll::Ready(None) => State::Waiting(Box::pin(std::future::ready(None))),
            Poll::Pending => State::Waiting(acquire),
        };
        Self(Some(Box::new(state)))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn acquire(limits: &Limits, is_blocking: bool) -> Acquire {
        Acquire::new(None, limits.of(is_blocking))
    }

    /// Polls once, and returns whether there are permits.
    fn has_permits(acquire: &mut Acquire) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = pin!(acquire.acquired()).poll(&mut cx);
        matches!(polled, Poll::Ready(Some(())))
    }

    #[test]
    fn each_kind_has_permits_of_its_own() {
        let limits = Limits::new(None, Some(1));
        assert!(has_permits(&mut acquire(&limits, false)));
        let mut first = acquire(&limits, true);
        assert!(has_permits(&mut first));
        let mut second = acquire(&limits, true);
        assert!(!has_permits(&mut second));
        drop(first);
        assert!(
            !has_permits(&mut acquire(&limits, true)),
            "the second comes first"
        );
        assert!(has_permits(&mut second));
    }

    #[test]
    fn a_task_that_waits_for_one_limit_takes_no_permit_of_the_next() {
        let (kind, all) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let held = Arc::clone(&kind).try_acquire_owned().unwrap();
        let mut waiting = Acquire::new(Some(&kind), Some(&all));
        assert!(!has_permits(&mut waiting));
        assert_eq!(all.available_permits(), 1);
        drop(held);
        assert!(has_permits(&mut waiting));
    }

    #[test]
    fn closed_limits_give_no_permit() {
        let limits = Limits::new(Some(1), None);
        limits.close();
        assert!(!has_permits(&mut acquire(&limits, false)));
    }
}
