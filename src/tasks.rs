//! [`BackgroundTasks`]: the registry in which a request collects its tasks.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    batch::Batch,
    current,
    end::{BodyError, End, ResponseEnd},
    error::MissingLayer,
    progress::{HeadFacts, Progress, RequestFacts},
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
    registry: Arc<Registry>,
}

struct Registry {
    supervisor: Supervisor,
    /// The registry of another supervisor's layer, which this one has replaced in the request's extensions.
    outer: Option<BackgroundTasks>,
    request: RequestFacts,
    head: OnceLock<HeadFacts>,
    /// What the body has yielded, for a release that comes before its end.
    bytes: AtomicU64,
    /// What was known at a release before the end.
    unfinished: OnceLock<Box<ResponseEnd>>,
    end: OnceLock<ResponseEnd>,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    released: bool,
    collected: Vec<Task>,
    runtime: Option<Handle>,
    timer: Option<AbortHandle>,
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

    /// Adds a task: a future, or a [`Task`]. It starts when the response is over, or now if that has been.
    ///
    /// Returns whether the task was taken: a supervisor that was shut down refuses it, counts it as refused, and logs an error.
    ///
    /// # Ordering
    ///
    /// Tasks are started in the order in which they were added.
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
        let mut slot = self.registry.slot();
        if slot.runtime.is_none() {
            slot.runtime = Handle::try_current().ok();
        }
        if !self.registry.supervisor.ledger().add(slot.released) {
            drop(slot);
            crate::log::error!(
                task = task.name().unwrap_or_default(),
                path = self.request().path(),
                "the supervisor is closed and refused a task"
            );
            return false;
        }
        if slot.released {
            let runtime = slot.runtime.clone();
            drop(slot);
            self.start(vec![task], runtime);
        } else {
            slot.collected.push(task);
            self.arm(&mut slot);
        }
        true
    }

    /// Takes back every task of this name that has not been released, and says how many there were. They are counted as
    /// cancelled, and dropped before this returns.
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
        let mut slot = self.registry.slot();
        let (removed, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut slot.collected).into_iter().partition(|task| task.name() == Some(name));
        slot.collected = kept;
        self.registry.supervisor.ledger().remove(removed.len());
        drop(slot);
        removed.len()
    }

    /// A registry for a request that enters a service.
    pub(crate) fn open(supervisor: &Supervisor, request: RequestFacts, outer: Option<Self>) -> Self {
        Self {
            registry: Arc::new(Registry {
                supervisor: supervisor.clone(),
                outer,
                request,
                head: OnceLock::new(),
                bytes: AtomicU64::new(0),
                unfinished: OnceLock::new(),
                end: OnceLock::new(),
                slot: Mutex::default(),
            }),
        }
    }

    /// This registry, or the one that it has replaced, if it is the supervisor's and its response is not over.
    pub(crate) fn open_of(&self, supervisor: &Supervisor) -> Option<Self> {
        let mut tasks = self;
        while tasks.registry.supervisor != *supervisor {
            tasks = tasks.registry.outer.as_ref()?;
        }
        (!tasks.is_over()).then(|| tasks.clone())
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
        Arc::strong_count(&self.registry) > 1 || !self.registry.slot().collected.is_empty()
    }

    /// Notes that the head is ready, and says whether anybody could ask how the response ends.
    pub(crate) fn head(&self, head: HeadFacts) -> bool {
        let first = self.registry.head.set(head).is_ok();
        debug_assert!(first, "a response has one head");
        let mut slot = self.registry.slot();
        self.arm(&mut slot);
        !slot.collected.is_empty() || Arc::strong_count(&self.registry) > 1
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

    /// Ends the response and releases the tasks. [`Lease`](crate::lease::Lease) calls this, once.
    pub(crate) fn end(mut self, (kind, error): (End, Option<BodyError>), mut progress: Progress) {
        if let Some(registry) = Arc::get_mut(&mut self.registry) {
            let slot = registry.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
            if slot.collected.is_empty() {
                return;
            }
        }
        let end = ResponseEnd::new(kind, self.request(), self.registry.head.get(), progress.bytes())
            .with_error(error)
            .with_trailers(progress.take_trailers(), progress.grpc_status());
        let first = self.registry.end.set(end).is_ok();
        debug_assert!(first, "a response has one end");
        self.release();
    }

    /// Releases the tasks while the response is still open.
    fn release_unfinished(self) {
        let registry = &self.registry;
        let bytes = registry.bytes.load(Ordering::Relaxed);
        let end = ResponseEnd::new(End::Unfinished, &registry.request, registry.head.get(), bytes);
        let first = registry.unfinished.set(Box::new(end)).is_ok();
        debug_assert!(first, "a response has one timer");
        self.release();
    }

    /// The one place where collected tasks are released.
    fn release(self) {
        let mut slot = self.registry.slot();
        slot.released = true;
        if let Some(timer) = slot.timer.take() {
            timer.abort();
        }
        let collected = std::mem::take(&mut slot.collected);
        if collected.is_empty() {
            return;
        }
        self.registry.supervisor.ledger().release(collected.len());
        let runtime = slot.runtime.clone();
        drop(slot);
        self.start(collected, runtime);
    }

    fn start(&self, released: Vec<Task>, runtime: Option<Handle>) {
        Batch::new(self.clone(), released).spawn(runtime.or_else(|| Handle::try_current().ok()).as_ref());
    }

    /// Starts the timer of `release_after`, if there is one to start: there is a head, and a task to release.
    fn arm(&self, slot: &mut Slot) {
        let Some(after) = self.registry.supervisor.policy().release_after else { return };
        let Some((head, runtime)) = self.registry.head.get().zip(slot.runtime.as_ref()) else { return };
        if slot.released || slot.timer.is_some() || slot.collected.is_empty() {
            return;
        }
        let deadline = head.at + after;
        let registry = Arc::downgrade(&self.registry);
        let timer = runtime.spawn(async move {
            tokio::time::sleep_until(deadline).await;
            if let Some(registry) = registry.upgrade() {
                Self { registry }.release_unfinished();
            }
        });
        slot.timer = Some(timer.abort_handle());
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
            .field("collected", &self.registry.slot().collected)
            .field("end", &self.registry.end.get())
            .finish_non_exhaustive()
    }
}

impl Registry {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing that can panic runs under this lock.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
