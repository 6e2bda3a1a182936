//! [`Batch`]: what was released together, and the one tokio task that starts it.
//!
//! A response is released while the server holds its last bytes, just before they are written. A runner comes after the
//! server's own task has run on where that writes at once; where the server has to wake another task first it yields, and so
//! comes after the write as a rule. Tasks that were spawned from the drop of the body would be taken by other workers before.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::runtime::Handle;

use crate::{job::Job, order::Order, outcome::Outcome, parked::Mailbox, spare, task::Task, tasks::BackgroundTasks};

/// Tasks that were released together: as many of a registry's queue as are owed, or what is in the sequence.
pub(crate) struct Batch {
    tasks: BackgroundTasks,
    /// How many tasks are left to take. Other runners may take them as well, each as many as it owes.
    owed: u32,
    order: Order,
    yields: bool,
    /// Whether the end of the sequence was found. What joins it after that has another runner.
    at_end: bool,
}

/// Starts the tasks of a batch, and then parks until it is given another.
///
/// It is moved when it is spawned, so it is small: what it starts is left in the queue, and what goes on is on the heap. tokio's
/// task of it then takes 128 bytes; the next size would be 256.
struct Runner {
    batch: Option<Batch>,
    aside: Option<Box<Aside>>,
}

/// What a runner does without until one of its tasks goes on, or it parks.
#[derive(Default)]
struct Aside {
    /// The task that goes on in this runner: the first one that does, or the one of the sequence.
    running: Option<JobFuture>,
    /// It is there when the runner has been parked.
    mailbox: Option<Arc<Mailbox>>,
}

type JobFuture = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Batch {
    pub(crate) const fn new(tasks: BackgroundTasks, owed: u32, order: Order, at_once: bool) -> Self {
        Self { tasks, owed, order, yields: !at_once, at_end: false }
    }

    /// Hands the tasks to a runner of their own. If the runtime has ended they are cancelled.
    pub(crate) fn spawn(self, runtime: &Handle) {
        drop(runtime.spawn(Runner { batch: Some(self), aside: None }));
    }

    fn next(&mut self) -> Option<Task> {
        if self.at_end {
            return None;
        }
        if self.order == Order::Concurrent {
            self.owed -= 1;
            let next = self.tasks.next_in_queue();
            self.at_end = self.owed == 0 || next.is_none();
            next
        } else {
            let next = self.tasks.next_in_sequence();
            self.at_end = next.is_none();
            next
        }
    }

    /// Polls the next task once. Nothing if there is none; the value of one that is over says whether it failed.
    #[inline]
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Option<Result<Job, bool>> {
        let mut job = Job::new(self.next()?, self.tasks.clone());
        Some(match job.poll_first(cx) {
            Poll::Ready(outcome) => Err(job.end_here(outcome)),
            Poll::Pending => Ok(job),
        })
    }

    /// Ready when all tasks are over that are run here.
    #[inline]
    fn poll(&mut self, aside: &mut Option<Box<Aside>>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.yields) {
            // The first poll of it is what asks to be woken after others.
            return pin!(tokio::task::yield_now()).poll(cx);
        }
        if self.order != Order::Concurrent {
            return self.poll_sequence(aside, cx);
        }
        if !self.at_end {
            self.start_together(aside, cx);
        }
        poll_running(aside, cx).map_or(Poll::Ready(()), |polled| polled.map(|_failed| ()))
    }

    /// Polls each task once in the order added, and makes each that goes on a tokio task of its own; the first of these goes
    /// on in this one. Most tasks that only hand something over end at their first poll, and need none.
    fn start_together(&mut self, aside: &mut Option<Box<Aside>>, cx: &mut Context<'_>) {
        while let Some(polled) = self.poll_next(cx) {
            let Ok(job) = polled else { continue };
            let job = job.run();
            let running = &mut aside.get_or_insert_default().running;
            if running.is_none() {
                *running = Some(Box::pin(job));
            } else {
                drop(tokio::spawn(job));
            }
        }
    }

    /// Runs one task after the other.
    fn poll_sequence(&mut self, aside: &mut Option<Box<Aside>>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let failed = match poll_running(aside, cx) {
                Some(polled) => ready!(polled),
                None => match self.poll_next(cx) {
                    None => return Poll::Ready(()),
                    Some(Err(failed)) => failed,
                    Some(Ok(job)) => {
                        aside.get_or_insert_default().running = Some(Box::pin(job.run()));
                        continue;
                    }
                },
            };
            if failed && self.order == Order::FailFast {
                self.end_rest(|| Outcome::Skipped);
            }
        }
    }

    fn end_rest(&mut self, outcome: impl Fn() -> Outcome) {
        while let Some(task) = self.next() {
            Job::new(task, self.tasks.clone()).end(outcome());
        }
    }
}

/// Polls the task that goes on, if there is one. Whether it failed is known when it is over.
#[inline]
fn poll_running(aside: &mut Option<Box<Aside>>, cx: &mut Context<'_>) -> Option<Poll<bool>> {
    let running = &mut aside.as_mut()?.running;
    let polled = running.as_mut()?.as_mut().poll(cx);
    if polled.is_ready() {
        *running = None;
    }
    Some(polled)
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Finds tasks only if nothing will run them: there is no runtime, or it went down.
        self.end_rest(|| Outcome::Cancelled);
        // As a rule nobody else has the registry when the last task is over.
        if self.tasks.retire() {
            spare::keep_registry(&self.tasks);
        }
    }
}

impl Runner {
    fn mailbox(&self) -> Option<&Arc<Mailbox>> {
        self.aside.as_ref()?.mailbox.as_ref()
    }
}

impl Future for Runner {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.batch.is_none() {
            let Some(mailbox) = this.mailbox() else { return Poll::Ready(()) };
            this.batch = ready!(mailbox.poll());
        }
        let Some(batch) = &mut this.batch else { return Poll::Ready(()) };
        ready!(batch.poll(&mut this.aside, cx));
        let is_new = this.aside.as_ref().is_none_or(|aside| aside.mailbox.is_none());
        let runtime = if is_new { batch.tasks.runtime() } else { None };
        this.batch = None;
        if let Some(mailbox) = runtime.and_then(|runtime| Mailbox::new(runtime, cx.waker())) {
            this.aside.get_or_insert_default().mailbox = Some(mailbox);
        }
        // Last of all: from now on it may be given more.
        if this.mailbox().is_some_and(Mailbox::park) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(mailbox) = self.mailbox() {
            drop(mailbox.close());
        }
    }
}
