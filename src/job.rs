//! The life of one task from its release to its one outcome.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    bounds::{unless_aborted, within},
    context::TaskContext,
    current::Scope,
    lane::{InLine, Place},
    meter,
    outcome::Outcome,
    panics::{caught, discard},
    report::TaskReport,
    task::Task,
    tasks::BackgroundTasks,
    work::BlockingWork,
};

/// A released task. Its drop before the end counts it as cancelled, so that none is lost when a runtime drops what it has.
pub(crate) struct Job {
    task: Task,
    tasks: BackgroundTasks,
    in_line: bool,
    ended: bool,
    /// Dropped last, so that a place is free when all is told of the task that had it.
    place: Place,
    line: Option<InLine>,
}

impl Job {
    pub(crate) const fn new(task: Task, tasks: BackgroundTasks) -> Self {
        Self { task, tasks, in_line: false, ended: false, place: None, line: None }
    }

    /// Judges whether the task is to run, takes a place for it or a place in line, and polls it if it has a place and can be
    /// polled. The task is over where this has an outcome.
    #[inline]
    pub(crate) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if self.tasks.supervisor().is_aborted() {
            return Poll::Ready(Outcome::Cancelled);
        }
        match self.is_wanted() {
            Ok(true) => {}
            Ok(false) => return Poll::Ready(Outcome::Skipped),
            Err(message) => return Poll::Ready(Outcome::Panicked(message)),
        }
        let is_blocking = self.task.header().blocking;
        match self.tasks.supervisor().lane(is_blocking).enter() {
            Ok(place) => self.place = place,
            Err(line) => return self.stand_in_line(line),
        }
        if is_blocking { Poll::Pending } else { self.poll(cx) }
    }

    fn stand_in_line(&mut self, line: InLine) -> Poll<Outcome> {
        let header = self.task.header();
        if let Some(key) = header.key {
            self.tasks.stand_in_line(header.index, key, header.name.clone());
            self.in_line = true;
        }
        self.line = Some(line);
        Poll::Pending
    }

    #[inline]
    fn is_wanted(&self) -> Result<bool, String> {
        let (when, unfinished) = (&self.task.header().when, self.task.header().unfinished);
        when.holds(self.tasks.exchange(), unfinished).or_else(|condition| {
            // This alone can panic.
            caught(|| self.task.in_span(|| condition(&self.tasks.response_end(unfinished))))
        })
    }

    /// Waits in line. Nothing if the task was taken back meanwhile, or the supervisor aborts.
    async fn wait(&mut self, in_line: InLine) -> Option<Place> {
        let place = unless_aborted(self.tasks.supervisor(), in_line).await;
        if self.leave_line() { place } else { None }
    }

    /// Returns whether the task was not taken back. If it was, its line in the books is closed, and may be another task's.
    #[inline]
    fn leave_line(&mut self) -> bool {
        let index = self.task.header().index;
        if std::mem::take(&mut self.in_line) && !self.tasks.leave_line(index) {
            self.task.header_mut().key = None;
        }
        self.task.header().key.is_some()
    }

    #[inline]
    fn start(&mut self) {
        let timed = self.timeout().is_some();
        let supervisor = self.tasks.supervisor();
        let header = self.task.header_mut();
        header.begun = true;
        if supervisor.is_timed() || timed {
            header.started = Some(Instant::now());
        }
        let Some(key) = header.key else { return };
        supervisor.ledger().start(key);
        if !supervisor.observers().is_empty() {
            if let Some(task) = supervisor.ledger().task(key) {
                supervisor.observers().tell(|observer| observer.task_started(&task));
            }
        }
        self.task.in_span(|| crate::log::debug!("a task started"));
    }

    #[inline]
    fn timeout(&self) -> Option<Duration> {
        self.task.header().timeout.or(self.tasks.supervisor().policy().task_timeout)
    }

    /// Starts the task if it has not started, and polls it.
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if !self.task.header().begun {
            self.start();
        }
        let Self { task, tasks, .. } = self;
        let (header, mut work) = task.parts_mut();
        let mut scope = Scope::new(tasks.clone());
        let polled = scope.run(|| {
            let context = || TaskContext::new(tasks, header, tasks.supervisor().cancel_token().clone());
            let poll = || work.as_mut().poll(&context, cx);
            let polled = match &header.span {
                Some(span) => span.in_scope(|| caught(poll)),
                None => caught(poll),
            };
            if !matches!(polled, Ok(Poll::Pending)) {
                header.cleared = true;
                discard(header.name.as_ref(), || work.clear());
            }
            polled
        });
        match polled {
            Ok(poll) => poll.map(|result| Outcome::of(Ok(result))),
            Err(message) => Poll::Ready(Outcome::Panicked(message)),
        }
    }

    /// Runs a task that is no function to the outcome that it is to be ended with.
    async fn run_async(&mut self) -> Outcome {
        let supervisor = self.tasks.supervisor().clone();
        match self.timeout() {
            None => unless_aborted(&supervisor, poll_fn(|cx| self.poll(cx))).await.unwrap_or(Outcome::Cancelled),
            // On the heap, so that a task without a timeout does not carry the place for a timer.
            Some(timeout) => {
                let spent = self.task.header().started.map_or(Duration::ZERO, |started| started.elapsed());
                let timed = within(timeout.saturating_sub(spent), poll_fn(|cx| self.poll(cx)));
                let timed = Box::pin(unless_aborted(&supervisor, timed)).await;
                timed.map_or(Outcome::Cancelled, |timed| timed.unwrap_or_else(|outcome| outcome))
            }
        }
    }

    /// Runs a function on a thread of its own. Where its end is seen, the place is still held.
    async fn run_blocking(&mut self, work: BlockingWork, place: Place) -> (Outcome, Place) {
        let supervisor = self.tasks.supervisor().clone();
        let token = supervisor.cancel_token().child_token();
        let context = TaskContext::new(&self.tasks, self.task.header(), token.clone());
        let mut scope = Scope::new(self.tasks.clone());
        let span = self.task.header().span.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let call = || caught(|| work(context));
            let result = scope.run(|| match &span {
                Some(span) => span.in_scope(call),
                None => call(),
            });
            // The place is held until the function has really returned, also where nobody waits for it any more.
            (result, place)
        });
        let unstarted = thread.abort_handle();
        let timeout = self.timeout();
        let timed = async {
            match timeout {
                Some(timeout) => within(timeout, thread).await,
                None => Ok(thread.await),
            }
        };
        let outcome = match unless_aborted(&supervisor, timed).await {
            Some(Ok(Ok((result, place)))) => return (Outcome::of(result), place),
            Some(Ok(Err(_the_runtime_went_down))) => return (Outcome::Cancelled, None),
            Some(Err(outcome)) => outcome,
            None => Outcome::Cancelled,
        };
        // A function that has not begun never will; one that runs is told.
        unstarted.abort();
        token.cancel();
        (outcome, None)
    }

    /// Runs the task to its end. Returns whether it failed.
    pub(crate) async fn run(mut self) -> bool {
        if let Some(line) = self.line.take() {
            match Box::pin(self.wait(line)).await {
                Some(place) => self.place = place,
                None => return self.end(Outcome::Cancelled),
            }
        }
        // What an abort drops may leave its place to a task that the abort has not come to.
        if self.tasks.supervisor().is_aborted() {
            return self.end(Outcome::Cancelled);
        }
        let (header, work) = self.task.parts_mut();
        let blocking = work.take_blocking();
        header.cleared |= blocking.is_some();
        let outcome = match blocking {
            Some(work) => {
                self.start();
                let place = self.place.take();
                let (outcome, place) = Box::pin(self.run_blocking(work, place)).await;
                self.place = place;
                outcome
            }
            None => self.run_async().await,
        };
        self.end(outcome)
    }

    /// Ends the task, and returns whether it failed.
    #[inline]
    pub(crate) fn end(mut self, outcome: Outcome) -> bool {
        self.end_here(outcome)
    }

    /// The same where the task lies: the one place where a released task gets its outcome.
    #[inline]
    pub(crate) fn end_here(&mut self, outcome: Outcome) -> bool {
        self.ended = true;
        self.leave_line();
        self.discard();
        let failed = outcome.is_failure();
        let figure = outcome.figure();
        let supervisor = self.tasks.supervisor();
        let header = self.task.header();
        if let Some(span) = &header.span {
            span.outcome(outcome.label());
        }
        // Without a key it was taken back, because somebody asked for it: that is nothing to be warned of.
        if crate::log::IS_ON && header.key.is_some() {
            self.task.in_span(|| outcome.log(header.name.as_ref(), self.tasks.exchange().path()));
        }
        if supervisor.is_timed() {
            let now = Instant::now();
            let released = header.added.unwrap_or_else(|| self.tasks.exchange().ended(self.task.header().unfinished).at);
            let waited = header.started.unwrap_or(now).saturating_duration_since(released);
            let ran = header.started.map(|started| now.saturating_duration_since(started));
            meter::ended(header.name.as_ref(), &outcome, waited, ran);
            if supervisor.observers().is_empty() {
                outcome.discard();
            } else {
                let end = self.tasks.response_end_if_known(header.unfinished);
                self.tasks.report(header.index, TaskReport { name: header.name.clone(), outcome, waited, ran, end });
            }
        } else {
            outcome.discard();
        }
        // Last of all, so that whoever waits for the books to be idle finds everything told.
        if let Some(key) = header.key {
            supervisor.ledger().end(key, figure);
        }
        failed
    }

    /// Drops what the user gave, with the registry as the current one.
    #[inline]
    fn discard(&mut self) {
        if !self.task.is_discarded() {
            Scope::new(self.tasks.clone()).run(|| self.task.discard());
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended {
            // Also while a panic unwinds: it is not the task's, whose own are caught, but that of who drops the task.
            self.end_here(Outcome::Cancelled);
        }
    }
}
