//! [`BackgroundTasks`]: the handle of a request's tasks.

use std::{fmt, sync::Arc};

use http::{Request, Response, StatusCode};
use tokio::time::Instant;

use super::{current::current, handle::TaskHandle, state::RequestState};
use crate::{
    error::NotInRequest,
    response::{BodyState, EndKind},
    supervisor::{Stats, Supervisor},
    task::{Order, Refused, StartOn, Task},
};

/// The tasks that a request leaves for after its response.
///
/// Each request that passes a [`BackgroundLayer`](crate::BackgroundLayer) has one in its
/// extensions. Tasks wait in it until the response is over. A task that you add after that starts
/// at once.
///
/// `BackgroundTasks` is a cheap handle: clones add to the same request. You can move a clone
/// anywhere, for example into `tokio::spawn`, and use it after the response.
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
pub struct BackgroundTasks(Arc<RequestState>);

impl BackgroundTasks {
    pub(crate) const fn new(state: Arc<RequestState>) -> Self {
        Self(state)
    }

    pub(crate) const fn state(&self) -> &Arc<RequestState> {
        &self.0
    }

    /// Returns the tasks of the request whose code runs now: while the handler, the response body
    /// or a task of the request is polled.
    ///
    /// Returns `None` elsewhere, also inside `tokio::spawn`, on another thread, and while
    /// something is dropped. Move a clone of `BackgroundTasks` there.
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
        current().map(Self)
    }

    /// Creates `BackgroundTasks` without a request, for a unit test of one handler.
    ///
    /// Look at [`names`](Self::names), or run what the handler added with
    /// [`end_for_test`](Self::end_for_test).
    ///
    /// # Examples
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_background::{BackgroundTasks, EndKind, Task};
    ///
    /// async fn sign_up(tasks: BackgroundTasks) -> StatusCode {
    ///     tasks.add(Task::new(async { println!("a mail goes out") }).named("welcome-mail"));
    ///     StatusCode::CREATED
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let tasks = BackgroundTasks::for_test();
    /// let status = sign_up(tasks.clone()).await;
    /// assert_eq!(tasks.names(), [Some("welcome-mail".to_owned())]);
    /// let stats = tasks.end_for_test(EndKind::Complete, status).await;
    /// assert_eq!(stats.succeeded, 1);
    /// # }
    /// ```
    #[must_use]
    pub fn for_test() -> Self {
        Self(RequestState::open(
            &Supervisor::new(),
            true,
            &Request::new(()),
            Instant::now(),
            None,
        ))
    }

    /// Starts the tasks as if the response had ended like this, waits for them, and returns how
    /// they ended.
    ///
    /// The response has a head with this status, unless the kind is [`EndKind::ServiceError`] or
    /// [`EndKind::NoResponse`].
    ///
    /// # Examples
    ///
    /// See [`for_test`](Self::for_test).
    pub async fn end_for_test(&self, kind: EndKind, status: StatusCode) -> Stats {
        let now = Instant::now();
        let mut body = BodyState::default();
        body.set_kind(kind);
        if !matches!(kind, EndKind::ServiceError | EndKind::NoResponse) {
            let mut response = Response::new(());
            *response.status_mut() = status;
            self.0
                .note_head(body.note_head(&response, now, None, false));
        }
        self.0.finish(body, None, now);
        self.supervisor().idle().await;
        self.supervisor().stats()
    }

    /// Returns the supervisor that owns the tasks.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        self.0.supervisor()
    }

    /// Waits until the process is going to stop: see [`Supervisor::begin_shutdown`].
    ///
    /// An endless stream should end then, so that the server can stop.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_util::{Stream, StreamExt};
    /// use tower_background::BackgroundTasks;
    ///
    /// fn events(tasks: &BackgroundTasks, events: impl Stream<Item = String>) -> impl Stream<Item = String> {
    ///     events.take_until(tasks.stopping())
    /// }
    /// # let tasks = BackgroundTasks::for_test();
    /// # let _ = events(&tasks, futures_util::stream::empty());
    /// ```
    #[must_use = "futures do nothing unless awaited"]
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        self.supervisor().stopping()
    }

    /// Returns the names of the tasks that wait for the end of the response, or for their turn, in
    /// the order added.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::BackgroundTasks;
    ///
    /// let tasks = BackgroundTasks::for_test();
    /// tasks.add(async {});
    /// assert_eq!(tasks.names(), [None]);
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<Option<String>> {
        self.0.names()
    }

    /// Adds a task: a future, or a [`Task`] with options. It starts when the response is over, or
    /// now if that has been.
    ///
    /// A task that is added after the supervisor was shut down is dropped, counted as refused, and
    /// logged as an ERROR. Use [`try_add`](Self::try_add) to get it back.
    ///
    /// # Ordering
    ///
    /// The tasks of a request are given to the runtime in the order in which you added them, and
    /// run beside each other. On a runtime with several workers the second may run first. Choose
    /// another [`Order`] if that matters.
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
    pub fn add(&self, task: impl Into<Task>) {
        if let Err(refused) = self.0.add(task.into(), None) {
            self.0.log_refused(refused);
        }
    }

    /// Adds a task like [`add`](Self::add), and returns a handle to await or abort it.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] with the task, if the supervisor was shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Refused, Task};
    ///
    /// fn handler(tasks: &BackgroundTasks) -> Result<(), Refused> {
    ///     let handle = tasks.try_add(Task::new(async { println!("rebuild the index") }))?;
    ///     handle.abort();
    ///     Ok(())
    /// }
    /// # let _ = handler;
    /// ```
    pub fn try_add(&self, task: impl Into<Task>) -> Result<TaskHandle, Refused> {
        TaskHandle::add(&self.0, task.into())
    }

    /// Chooses the order of the tasks of this request. Returns whether it was in time: tasks that
    /// have started keep their order.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, Order};
    ///
    /// fn handler(tasks: &BackgroundTasks) {
    ///     tasks.set_order(Order::FailFast);
    ///     tasks.add(async { std::fs::copy("order.json", "order.bak").map(drop) });
    ///     tasks.add(async { std::fs::remove_file("order.json") });
    /// }
    /// # let _ = handler;
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it is called to set the order")]
    pub fn set_order(&self, order: Order) -> bool {
        self.0.set_order(order)
    }

    /// Chooses when the tasks of this request start. Returns whether it was in time: before the tasks
    /// have started and, for [`StartOn::LastByteSent`], before the response has a head.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_background::{BackgroundTasks, StartOn};
    ///
    /// fn handler(tasks: &BackgroundTasks) {
    ///     tasks.set_start_on(StartOn::EndOfStream);
    /// }
    /// # let _ = handler;
    /// ```
    #[expect(clippy::must_use_candidate, reason = "it is called to choose")]
    pub fn set_start_on(&self, start_on: StartOn) -> bool {
        self.0.set_start_on(start_on)
    }

    /// Takes back every task of this name that does not run yet, and returns how many there were.
    /// Their outcome is [`Outcome::Removed`](crate::Outcome::Removed).
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
    #[expect(
        clippy::must_use_candidate,
        reason = "it is called to take tasks back, not to count them"
    )]
    pub fn remove(&self, name: &str) -> usize {
        self.0.remove(name)
    }
}

/// Adds a task to the request whose code runs now. It is short for [`BackgroundTasks::current`] and
/// [`BackgroundTasks::add`].
///
/// # Errors
///
/// Returns [`NotInRequest`] if no code of a request runs now. The task is dropped then.
///
/// # Examples
///
/// ```
/// use tower_background::{NotInRequest, defer};
///
/// fn deep_below_the_handler() -> Result<(), NotInRequest> {
///     defer(async { println!("after the response") })
/// }
/// assert!(deep_below_the_handler().is_err(), "no request is here");
/// ```
pub fn defer(task: impl Into<Task>) -> Result<(), NotInRequest> {
    BackgroundTasks::current().ok_or(NotInRequest)?.add(task);
    Ok(())
}

impl fmt::Debug for BackgroundTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.path();
        f.debug_struct("BackgroundTasks")
            .field("path", &path)
            .field("has_ended", &self.0.has_ended())
            .field("names", &self.names())
            .finish_non_exhaustive()
    }
}
