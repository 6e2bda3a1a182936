//! Places for tasks that run at once, given first come first served.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// As many places as there may be tasks of one kind at once; any number without a limit.
#[derive(Debug)]
pub(crate) struct Lane(Option<Arc<Semaphore>>);

/// A place, which is given back by its drop.
pub(crate) type Place = Option<OwnedSemaphorePermit>;

/// A place in line, held from now on; it becomes a place.
pub(crate) type InLine = Pin<Box<dyn Future<Output = Place> + Send>>;

impl Lane {
    pub(crate) fn new(places: Option<usize>) -> Self {
        Self(places.map(|places| Arc::new(Semaphore::new(places))))
    }

    /// Takes a place, or the last place in the line for one.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Place, InLine> {
        let Some(semaphore) = &self.0 else { return Ok(None) };
        // The semaphore serves its line first, so that no newcomer gets a place while others wait.
        if let Ok(permit) = Arc::clone(semaphore).try_acquire_owned() {
            return Ok(Some(permit));
        }
        let semaphore = Arc::clone(semaphore);
        let mut in_line: InLine = Box::pin(async move { semaphore.acquire_owned().await.ok() });
        // The first poll is what takes the place in line; whoever awaits it later brings the waker.
        match in_line.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Ok(place),
            Poll::Pending => Err(in_line),
        }
    }
}
