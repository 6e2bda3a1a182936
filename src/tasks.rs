//! [`BackgroundTasks`]: the registry in which a request collects its tasks.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http::Request;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    current,
    end::ResponseEnd,
    error::MissingLayer,
    exchange::Exchange,
    log::Span,
    meter,
    moment::Release,
    name::Name,
    order::Order,
    outcome::Outcome,
    registry::Registry,
    report::{BatchReport, TaskReport, TaskState},
    supervisor::Supervisor,
    task::{Key, Task},
};

/// The tasks that a request leaves for after its response.
///
/// Each request that passes a [`BackgroundLayer`](crate::BackgroundLayer) has one, in its extensions. Tasks wait in it until
/// the response is over; from then on it starts them at once.
///
/// A registry is a cheap handle: its clones are the same registry. It may leave the request, and be used after it.
///
/// # Examples
///
/// ```
/// use http::{Request, Response};
/// use tower_background::{BackgroundTasksExt, MissingLayer};
///
/// async fn sign_up(request: Request<String>) -> Result<Response<String>, MissingLayer> {
///     let address = request.body().clone();
///     request.background_tasks()?.add(async move { println!("a mail goes to {address}") });
///     Ok(Response::new("welcome".to_owned()))
/// }
/// # let _ = sign_up;
/// ```
#[derive(Clone)]
pub struct BackgroundTasks {
    pub(crate) registry: Arc<Registry>,
}

impl BackgroundTasks {
    /// The registry of the request whose code is running: anywhere below the handler, in the response's body stream, in a
    /// running task, or while one of these is dropped.
    ///
    /// `None` outside of these, so also in what a handler gave to [`tokio::spawn`]: give it a clone of the registry.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::BackgroundTasks;
    ///
    /// fn deep_below_the_handler() {
    ///     if let Some(tasks) = BackgroundTasks::current() {
    ///         tasks.add(async { println!("after the response") });
    ///     }
    /// }
    /// # deep_below_the_handler();
    /// ```
    #[must_use]
    pub fn current() -> Option<Self> {
        current::current()
    }

    /// A registry without a response, for unit tests: hand it to a handler, and look at what it added.
    ///
    /// Its tasks never run. They are counted as collected, and as cancelled when the last handle of it is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Supervisor, Task};
    ///
    /// async fn sign_up(tasks: BackgroundTasks) {
    ///     tasks.add(Task::new(async { println!("a mail goes out") }).named("welcome-mail"));
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let tasks = BackgroundTasks::detached(&Supervisor::new());
    /// sign_up(tasks.clone()).await;
    /// assert_eq!(tasks.names(), [Some("welcome-mail".to_owned())]);
    /// # }
    /// ```
    #[must_use]
    pub fn detached(supervisor: &Supervisor) -> Self {
        let started = Instant::now();
        let mut registry = Registry::new(started);
        registry.exchange.open(&Request::new(()), started, false);
        registry.serve(supervisor, true, None);
        Self { registry: Arc::new(registry) }
    }

    /// The names of the tasks that are collected, in the order added.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Supervisor};
    ///
    /// let tasks = BackgroundTasks::detached(&Supervisor::new());
    /// tasks.add(async {});
    /// assert_eq!(tasks.names(), [None]);
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<Option<String>> {
        let slot = self.registry.slot();
        if slot.released {
            return Vec::new();
        }
        slot.queue.iter().map(|task| task.name().map(str::to_owned)).collect()
    }

    /// Adds a task: a future, or a [`Task`]. It starts when the response is over, or now if that has been.
    ///
    /// Returns whether the task was taken. One that is added to a supervisor that was shut down is dropped, counted as refused,
    /// and logged as an error.
    ///
    /// # Ordering
    ///
    /// Tasks take their turn in the order in which they were added. Without an [`Order`] that says more they then run beside
    /// each other, so on a runtime of several threads the second may come to run before the first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_background::{BackgroundTasks, Task, When};
    ///
    /// fn handler(tasks: &BackgroundTasks) {
    ///     tasks.add(async { println!("simple") });
    ///     tasks.add(
    ///         Task::new(async { "42".parse::<u8>().map(drop) })
    ///             .named("parse")
    ///             .timeout(Duration::from_secs(5))
    ///             .when(When::Success),
    ///     );
    /// }
    /// # let _ = handler;
    /// ```
    pub fn add(&self, task: impl Into<Task>) -> bool {
        self.add_task(task.into())
    }

    fn add_task(&self, mut task: Task) -> bool {
        let registry = &*self.registry;
        let header = task.header_mut();
        header.span = Span::of_task(header.name.as_ref().map(Name::as_str), &registry.exchange);
        let mut slot = registry.slot();
        slot.touched = true;
        if slot.runtime.is_none() {
            slot.runtime = Handle::try_current().ok();
        }
        if slot.released {
            header.added = Some(Instant::now());
            header.unfinished = !registry.exchange.is_over();
        }
        let ledger = registry.supervisor().ledger();
        header.key = ledger.add(header.name.as_ref(), Arc::downgrade(&self.registry) as _, registry.admitted, header.added);
        if header.key.is_none() {
            drop(slot);
            self.refuse(&mut task);
            return false;
        }
        header.index = slot.filed;
        slot.filed += 1;
        slot.unreported += 1;
        let state = if slot.released { TaskState::Waiting } else { TaskState::Collected };
        slot.queue.push(task);
        if state == TaskState::Waiting {
            // Nothing is being written now.
            self.start(1, true, slot);
        } else {
            if self.supervisor().policy().release_after.is_some() {
                self.arm(&mut slot);
            }
            drop(slot);
        }
        meter::moved(None, Some(state), 1);
        true
    }

    fn refuse(&self, task: &mut Task) {
        task.discard();
        task.in_span(|| {
            let (task, path) = (task.name().unwrap_or_default(), self.exchange().path());
            crate::log::error!(task = task, path = path, "a task was refused: the supervisor is closed");
        });
        if let Some(report) = self.end_unreleased(task, Outcome::Refused) {
            self.supervisor().observers().tell(|observer| observer.task_ended(&report));
        }
    }

    /// Notes the end of a task that was not released, and reports it if anybody wants that.
    fn end_unreleased(&self, task: &Task, outcome: Outcome) -> Option<TaskReport> {
        let name = task.header().name.clone();
        if let Some(span) = &task.header().span {
            span.outcome(outcome.label());
        }
        meter::ended(name.as_ref(), &outcome, Duration::ZERO, None);
        let observed = !self.supervisor().observers().is_empty();
        observed.then_some(TaskReport { name, outcome, waited: Duration::ZERO, ran: None, end: None })
    }

    /// Runs the tasks of this request in another order than the supervisor's. Returns whether it could: tasks that were
    /// released keep the order that they were released with.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Order};
    ///
    /// fn handler(tasks: &BackgroundTasks) {
    ///     tasks.order(Order::FailFast);
    ///     tasks.add(async { std::fs::copy("order.json", "order.bak").map(drop) });
    ///     tasks.add(async { std::fs::remove_file("order.json") });
    /// }
    /// # let _ = handler;
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it is called to set the order")]
    pub fn order(&self, order: Order) -> bool {
        let mut slot = self.registry.slot();
        if !slot.released {
            (slot.touched, slot.order) = (true, Some(order));
        }
        !slot.released
    }

    /// Releases the tasks of this request at another moment than the supervisor's. Returns whether it could: the choice is
    /// made before the end of the body.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Release};
    ///
    /// fn handler(tasks: &BackgroundTasks) {
    ///     tasks.release(Release::Sent);
    ///     tasks.add(async { println!("the socket has all of it") });
    /// }
    /// # let _ = handler;
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it is called to choose")]
    pub fn release(&self, release: Release) -> bool {
        let slot = self.registry.slot();
        if !slot.released {
            self.registry.choose(release);
        }
        !slot.released
    }

    /// Whether the tasks wait for the last byte.
    #[inline]
    pub(crate) fn wait_for_sent(&self) -> bool {
        self.registry.waits_for_sent()
    }

    /// Takes back every task of this name that has not started, and says how many there were. They are counted as cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::BackgroundTasks;
    ///
    /// fn unsubscribe(tasks: &BackgroundTasks) -> bool {
    ///     tasks.remove("welcome-mail") > 0
    /// }
    /// # let _ = unsubscribe;
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it is called to take tasks back, not to count them")]
    pub fn remove(&self, name: &str) -> usize {
        let named = |task: &Task| task.name() == Some(name);
        let mut slot = self.registry.slot();
        let mut removed = slot.queue.extract(named);
        let mut from_line = BTreeMap::new();
        if let Some(rare) = slot.rare_if_any() {
            (from_line, rare.in_line) = std::mem::take(&mut rare.in_line)
                .into_iter()
                .partition(|(_, (_, other))| other.as_ref().is_some_and(|other| other.as_str() == name));
        }
        drop(slot);
        let found = removed.len() as usize + from_line.len();
        while let Some(task) = removed.pop() {
            self.take_back(task);
        }
        for (key, _) in from_line.into_values() {
            // What stood in line finds its place gone when its turn comes, and tells the observers then.
            self.supervisor().ledger().end(key, Outcome::Cancelled.figure());
        }
        found
    }

    /// Counts a task as cancelled that was not released.
    pub(crate) fn take_back(&self, mut task: Task) {
        task.discard();
        let (key, index) = (task.header().key, task.header().index);
        if let Some(report) = self.end_unreleased(&task, Outcome::Cancelled) {
            self.report(index, report);
        }
        if let Some(key) = key {
            self.supervisor().ledger().end(key, Outcome::Cancelled.figure());
        }
    }

    /// A registry that can serve a request.
    #[cold]
    pub(crate) fn spare() -> Self {
        Self { registry: Arc::new(Registry::new(Instant::now())) }
    }

    /// Makes a registry that can serve a request the one of this request, which enters a service.
    #[inline]
    pub(crate) fn serve<B>(&mut self, supervisor: &Supervisor, request: &Request<B>, outer: Option<&Self>) {
        let registry = Arc::get_mut(&mut self.registry).expect("a spare registry is nobody else's");
        registry.exchange.open(request, Instant::now(), supervisor.policy().release_after.is_some());
        registry.serve(supervisor, supervisor.open_response(), outer);
    }

    /// This registry, or one that it has replaced, whichever is the supervisor's.
    pub(crate) fn of(&self, supervisor: &Supervisor) -> Option<&Self> {
        let mut tasks = self;
        while tasks.supervisor() != supervisor {
            tasks = tasks.registry.outer.as_ref()?;
        }
        Some(tasks)
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.registry.exchange
    }

    /// As `response_end`, where that is known.
    pub(crate) fn response_end_if_known(&self, unfinished: bool) -> Option<ResponseEnd> {
        self.exchange().is_known(unfinished).then(|| self.response_end(unfinished))
    }

    /// The response's end, or what was known of it at an earlier release.
    pub(crate) fn response_end(&self, unfinished: bool) -> ResponseEnd {
        ResponseEnd::new(Arc::clone(&self.registry) as _, unfinished)
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        self.registry.supervisor()
    }

    /// Whether anybody could ask how the response ends. As the only handle is the response's own, `false` can change only
    /// by the response's own code.
    pub(crate) fn is_watched(&self) -> bool {
        Arc::strong_count(&self.registry) > 1
            || !self.supervisor().observers().is_empty()
            || !self.registry.slot().queue.is_empty()
    }

    /// The next task that was released and not yet come to.
    #[inline]
    pub(crate) fn next_in_queue(&self) -> Option<Task> {
        self.registry.slot().queue.pop()
    }

    /// The next task of a sequence; after the last, a new one needs a new runner.
    pub(crate) fn next_in_sequence(&self) -> Option<Task> {
        let mut slot = self.registry.slot();
        let next = slot.queue.pop();
        slot.in_sequence = next.is_some();
        next
    }

    /// Notes that a task waits for a place, so that it can be taken back.
    pub(crate) fn stand_in_line(&self, index: u32, key: Key, name: Option<Name>) {
        self.registry.slot().rare().in_line.insert(index, (key, name));
    }

    /// Notes that a task waits no more. Returns whether it was not taken back.
    pub(crate) fn leave_line(&self, index: u32) -> bool {
        self.registry.slot().rare().in_line.remove(&index).is_some()
    }

    /// Tells the observers how a task ended, and how the batch did if it was its last.
    pub(crate) fn report(&self, index: u32, report: TaskReport) {
        self.supervisor().observers().tell(|observer| observer.task_ended(&report));
        let mut slot = self.registry.slot();
        slot.unreported -= 1;
        slot.rare().reports.push((index, report));
        let reports = slot.take_reports_if_over();
        drop(slot);
        if let Some(reports) = reports {
            self.batch_ended(reports);
        }
    }

    pub(crate) fn batch_ended(&self, tasks: Vec<TaskReport>) {
        // A batch of tasks that were all taken back before the end has no end of its own yet.
        let end = tasks.iter().find_map(|task| task.end.clone());
        let end = end.unwrap_or_else(|| self.response_end(!self.exchange().is_over()));
        let report = BatchReport { end, tasks };
        self.supervisor().observers().tell(|observer| observer.batch_ended(&report));
        report.tasks.into_iter().for_each(|task| task.outcome.discard());
    }
}

/// Adds a task to the registry of the request whose code is running: short for
/// [`BackgroundTasks::current`]`()?.`[`add`](BackgroundTasks::add)`(task)`.
///
/// # Errors
///
/// [`MissingLayer`], if this is not the code of a request that passed a [`BackgroundLayer`](crate::BackgroundLayer); the task
/// is dropped then.
///
/// # Examples
///
/// ```
/// use tower_background::{MissingLayer, defer};
///
/// fn deep_below_the_handler() -> Result<(), MissingLayer> {
///     defer(async { println!("after the response") })
/// }
/// assert!(deep_below_the_handler().is_err(), "there is no request here");
/// ```
pub fn defer(task: impl Into<Task>) -> Result<(), MissingLayer> {
    BackgroundTasks::current().ok_or(MissingLayer)?.add(task);
    Ok(())
}

impl fmt::Debug for BackgroundTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exchange = self.exchange();
        f.debug_struct("BackgroundTasks")
            .field("method", &exchange.method)
            .field("path", &exchange.path())
            .field("filed", &self.registry.slot().filed)
            .field("is_over", &exchange.is_over())
            .finish_non_exhaustive()
    }
}
