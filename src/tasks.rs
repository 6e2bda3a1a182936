//! [`BackgroundTasks`]: the registry in which a request collects its tasks.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    current,
    end::ResponseEnd,
    error::MissingLayer,
    job::{Filed, log_outcome},
    log::Span,
    meter,
    name::Name,
    order::Order,
    outcome::Outcome,
    panics::quietly,
    progress::{HeadFacts, RequestFacts},
    registry::Registry,
    report::{TaskReport, TaskState},
    supervisor::Supervisor,
    task::Task,
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
        let request = RequestFacts::of(&http::Request::new(()));
        Self { registry: Arc::new(Registry::new(supervisor, request, None, true)) }
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
        self.registry.slot().collected.iter().map(|filed| filed.task.name().map(str::to_owned)).collect()
    }

    /// Adds a task: a future, or a [`Task`]. It starts when the response is over, or now if that has been.
    ///
    /// Returns whether the task was taken: a supervisor that was shut down refuses it, counts it as refused, and logs an error.
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

    fn add_task(&self, task: Task) -> bool {
        let registry = &*self.registry;
        let span = Span::of_task(task.name(), &registry.request);
        let mut slot = registry.slot();
        if slot.runtime.is_none() {
            slot.runtime = Handle::try_current().ok();
        }
        let state = if slot.released { TaskState::Waiting } else { TaskState::Collected };
        let Some(key) = registry.supervisor.ledger().add(task.name.as_ref(), &registry.request, registry.admitted, state) else {
            drop(slot);
            self.refuse(task, &span);
            return false;
        };
        let filed = Filed { task, key, index: slot.filed, span };
        slot.filed += 1;
        slot.unreported += 1;
        if slot.released {
            self.start(vec![filed], true, slot);
        } else {
            slot.collected.push(filed);
            self.arm(&mut slot);
            drop(slot);
        }
        meter::moved(None, Some(state), 1);
        true
    }

    fn refuse(&self, task: Task, span: &Span) {
        let Task { name, .. } = task;
        let outcome = Outcome::Refused;
        span.outcome(outcome.label());
        span.in_scope(|| log_outcome(&outcome, name.as_ref().map_or("", Name::as_str), self.request().path()));
        meter::ended(name.as_ref(), &outcome, Duration::ZERO, None);
        if !self.supervisor().observers().is_empty() {
            let report = TaskReport { name, outcome, waited: Duration::ZERO, ran: None, release: None };
            self.supervisor().observers().tell(|observer| observer.task_ended(&report));
        }
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
            slot.order = Some(order);
        }
        !slot.released
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
        let named = |filed: &Filed| filed.task.name() == Some(name);
        let mut slot = self.registry.slot();
        let (mut removed, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut slot.collected).into_iter().partition(named);
        slot.collected = kept;
        let (from_sequence, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut slot.sequence).into_iter().partition(named);
        slot.sequence = kept;
        removed.extend(from_sequence);
        let (from_line, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut slot.in_line)
            .into_iter()
            .partition(|(.., other)| other.as_ref().is_some_and(|other| other.as_str() == name));
        slot.in_line = kept;
        drop(slot);
        let found = removed.len() + from_line.len();
        for filed in removed {
            self.take_back(filed);
        }
        for (_, key, _) in from_line {
            // What stood in line finds its place gone when its turn comes, and tells the observers then.
            self.supervisor().ledger().end(key, Outcome::Cancelled.figure());
        }
        found
    }

    fn take_back(&self, filed: Filed) {
        let Filed { task: Task { name, kind, when, .. }, key, index, span } = filed;
        quietly("a task's captured value", || drop((kind, when)));
        let outcome = Outcome::Cancelled;
        span.outcome(outcome.label());
        meter::ended(name.as_ref(), &outcome, Duration::ZERO, None);
        if !self.supervisor().observers().is_empty() {
            self.report(index, TaskReport { name, outcome, waited: Duration::ZERO, ran: None, release: None });
        }
        self.supervisor().ledger().end(key, Outcome::Cancelled.figure());
    }

    /// A registry for a request that enters a service.
    pub(crate) fn open(supervisor: &Supervisor, request: RequestFacts, outer: Option<Self>) -> Self {
        Self { registry: Arc::new(Registry::new(supervisor, request, outer, supervisor.open_response())) }
    }

    /// This registry, or one that it has replaced, whichever is the supervisor's.
    pub(crate) fn of(&self, supervisor: &Supervisor) -> Option<&Self> {
        let mut tasks = self;
        while tasks.registry.supervisor != *supervisor {
            tasks = tasks.registry.outer.as_ref()?;
        }
        Some(tasks)
    }

    pub(crate) fn request(&self) -> &RequestFacts {
        &self.registry.request
    }

    pub(crate) fn supervisor(&self) -> &Supervisor {
        &self.registry.supervisor
    }

    /// Whether anybody could ask how the response ends. As the only handle is the response's own, `false` can change only
    /// by the response's own code.
    pub(crate) fn is_watched(&self) -> bool {
        Arc::strong_count(&self.registry) > 1
            || !self.supervisor().observers().is_empty()
            || !self.registry.slot().collected.is_empty()
    }

    /// Notes that the head is ready.
    pub(crate) fn head(&self, head: HeadFacts) {
        let first = self.registry.head.set(head).is_ok();
        debug_assert!(first, "a response has one head");
        if self.supervisor().policy().release_after.is_some() {
            self.arm(&mut self.registry.slot());
        }
    }

    /// Notes how many bytes the body has yielded.
    pub(crate) fn note_bytes(&self, bytes: u64) {
        // Only the response's owner writes; a reader wants a figure, not an order of events.
        self.registry.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether the response has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.registry.end.get().is_some()
    }

    /// The response's end, or what was known of it at an earlier release.
    pub(crate) fn known_end(&self, unfinished: bool) -> Option<&ResponseEnd> {
        if unfinished { self.registry.unfinished.get().map(|end| &**end) } else { self.registry.end.get() }
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
        let request = self.request();
        f.debug_struct("BackgroundTasks")
            .field("method", &request.method)
            .field("path", &request.path())
            .field("filed", &self.registry.slot().filed)
            .field("end", &self.registry.end.get())
            .finish_non_exhaustive()
    }
}
