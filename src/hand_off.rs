//! [`HandOff`]: hands jobs to a queue, a database or any other service that outlives the process.

use std::{fmt, sync::Arc};

use tower_service::Service;

use crate::{
    bounds::unless,
    context::TaskContext,
    destination::{Destination, Holding, Plain},
    error::BoxError,
    hand_off_error::SharedError,
    outcome::HandedOff,
    overflow::Overflow,
    receipt::Receipt,
    task::{Task, TaskOutput},
};

/// Hands jobs to a destination: any [`tower_service::Service`] that takes one.
///
/// A job is plain data that somebody else works on: a message of a queue, a row of a table, a call of another service. The
/// destination has the retries, timeouts and limits that its tower layers give it. It is cloned for each job, so a layer
/// that counts needs a handle that its clones share, as `tower::limit::ConcurrencyLimit` and `tower::buffer::Buffer` have. Where
/// a job is a batch, it is a service of `Vec<Job>`.
///
/// [`job`](Self::job) makes a [`Task`] that writes a job, to be added to a request's registry as any other. When it is written
/// is chosen here, so that no handler is written differently for it:
///
/// | | the job is written | a process that dies | the job starts |
/// |---|---|---|---|
/// | [`lossy`](Self::lossy) | after the end of the response | loses it, though the client saw a success | when it is written |
/// | [`durable`](Self::durable) | before the head of the response | loses nothing that a client saw a success of | when it is written, so before the client has its answer |
/// | [`held`](Self::held) | before the head of the response | loses nothing that a client saw a success of | after the end of the response; after a grace, if the process dies first |
///
/// The last two are kept by [`BackgroundLayer::hand_off`](crate::BackgroundLayer::hand_off): the head of a response waits until
/// its jobs are written, and where that fails the client gets another answer. Without that layer such a job is refused. A
/// client may see a failure, or nothing, of a request whose job was written: jobs are done at least once, and should be such
/// that twice does no harm.
///
/// A job that a head waits for takes no place of [`max_concurrent`](crate::SupervisorBuilder::max_concurrent), so that no head
/// waits for other tasks: how many are written at once is for the layers of the destination to say. Once it is being written,
/// [`remove`](crate::BackgroundTasks::remove) does not find it.
///
/// A handle is cheap to clone.
///
/// # Conditions
///
/// Before the head it is not known how the response ends. A durable or held job is written before any head, or with
/// [`When::Success`](crate::When::Success) before one with a status below 400 and a gRPC status of 0 or none. It is refused with
/// `When::Complete` or `When::Matches`, which only the end can tell.
///
/// # Examples
///
/// A destination that is a function, and a handler that uses it:
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode};
/// use http_body_util::{BodyExt, Full};
/// use std::sync::{Arc, Mutex};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_background::{BackgroundLayer, BackgroundTasksExt, BoxError, HandOff, HandOffError, Supervisor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let table = Arc::new(Mutex::new(Vec::new()));
/// let rows = table.clone();
/// let mails = HandOff::durable(service_fn(move |address: String| {
///     let rows = rows.clone();
///     async move { Ok::<_, BoxError>(rows.lock().unwrap().push(address)) }
/// }));
///
/// let layer = BackgroundLayer::new().hand_off(|error: HandOffError| {
///     let mut response = Response::new(Full::from(error.to_string()));
///     *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///     response
/// });
/// let mut service = ServiceBuilder::new().layer(layer).service(service_fn(move |request: Request<()>| {
///     let mails = mails.clone();
///     async move {
///         request.background_tasks()?.add(mails.job("ada@example.org".to_owned()).named("welcome-mail"));
///         Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("welcome")))
///     }
/// }));
///
/// let response = service.ready().await?.call(Request::new(())).await?;
/// assert_eq!(*table.lock().unwrap(), ["ada@example.org"], "written before the head");
/// # response.into_body().collect().await?;
/// # Ok(())
/// # }
/// ```
pub struct HandOff<J> {
    destination: Arc<dyn Destination<J>>,
    before_head: bool,
}

impl<J: Send + 'static> HandOff<J> {
    /// Writes jobs after the end of the response, as an ordinary task: the response waits for nothing, and what is not yet
    /// written is lost when the process dies, though the client may have seen a success.
    ///
    /// [`shutdown`](crate::Supervisor::shutdown) waits for it; limits, timeouts and conditions are those of any task.
    pub fn lossy<S>(destination: S) -> Self
    where
        S: Service<J, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    {
        Self { destination: Arc::new(Plain(destination)), before_head: false }
    }

    /// Writes jobs before the head of the response: a client that saw a success can rely on its job.
    ///
    /// The job may start, and even end, before the client has its answer.
    pub fn durable<S>(destination: S) -> Self
    where
        S: Service<J, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    {
        Self { destination: Arc::new(Plain(destination)), before_head: true }
    }

    /// Writes jobs before the head of the response to a destination that holds them, and releases them after the end: a
    /// client that saw a success can rely on its job, which does not start before the response was over.
    ///
    /// If the process dies before that, or the destination can't be told, the job starts by itself after the grace that
    /// the destination was given. So a response that may stay open for longer than that needs a longer grace. The release is a
    /// task of its own, with the name of the first; it runs after any end.
    pub fn held<S>(destination: S) -> Self
    where
        S: Service<J, Response: Receipt, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    {
        Self { destination: Arc::new(Holding(destination)), before_head: true }
    }

    /// A task that hands this job off. Its outcome is [`HandedOff`](crate::Outcome::HandedOff) when the destination has taken it.
    ///
    /// A job that is added after the head, by a body's stream or a task, finds no head to wait: it is handed off after the end
    /// of the response, as a lossy one.
    pub fn job(&self, job: J) -> Task {
        let this = self.clone();
        let mut task = Task::with_context(|cx| async move { this.push(job, &cx).await });
        task.header_mut().before_head = self.before_head;
        task
    }

    /// A task that does a job in this process, after the response as any other, and hands it off where it could not run to
    /// its end:
    ///
    /// - it comes to its turn while there are more tasks than [`max_pending`](crate::SupervisorBuilder::max_pending),
    /// - its request came after the supervisor began to [shut down](crate::Supervisor::shutdown), so that another task would be
    ///   refused,
    /// - or the grace of a shutdown is over and it has not ended. What ran is dropped then, and the destination has
    ///   [`abort_after`](crate::SupervisorBuilder::abort_after) to take the job.
    ///
    /// Its outcome is [`HandedOff`](crate::Outcome::HandedOff) in these cases. The job is done again from its start, so it should
    /// be such that twice does no harm. When the destination is written to does not depend on the kind of this handle.
    ///
    /// When the grace is over, a response may still be open: a stream without end, a client that does not read. Its tasks do not
    /// wait for its end then. One with [`When::Always`](crate::When::Always) is handed off at once, one with the default
    /// [`When::Responded`](crate::When::Responded) as soon as there is a head. What any other condition says only the end can
    /// tell: if that does not come in time either, such a task is dropped, and the report names it. What a destination holds
    /// of a response that is open is released at its end, or by its own grace.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower::service_fn;
    /// use tower_background::{BackgroundTasks, BoxError, HandOff};
    ///
    /// async fn send(address: String) -> Result<(), BoxError> {
    ///     println!("a mail goes to {address}");
    ///     Ok(())
    /// }
    ///
    /// fn handler(tasks: &BackgroundTasks, mails: &HandOff<String>) {
    ///     tasks.add(mails.overflow("ada@example.org".to_owned(), |address, _cx| send(address)).named("welcome-mail"));
    /// }
    /// # let mails = HandOff::lossy(service_fn(|_: String| async { Ok::<_, BoxError>(()) }));
    /// # let tasks = BackgroundTasks::detached(&tower_background::Supervisor::new());
    /// # handler(&tasks, &mails);
    /// # assert_eq!(tasks.names(), [Some("welcome-mail".to_owned())]);
    /// ```
    pub fn overflow<F, Fut>(&self, job: J, run: F) -> Task
    where
        J: Clone,
        F: FnOnce(J, TaskContext) -> Fut + Send + 'static,
        Fut: Future<Output: TaskOutput> + Send + 'static,
    {
        let this = self.clone();
        let mut task = Task::with_context(|cx: TaskContext| async move {
            if !cx.overflows {
                let run = run(job.clone(), cx.clone());
                if let Some(output) = unless(cx.cancelled(), run).await {
                    return output.into_result();
                }
            }
            this.push(job, &cx).await
        });
        task.header_mut().overflow = Overflow::Possible;
        task
    }

    /// Never `Ok`: that a job was handed off is told by an error of its own, as a task's output has no word for it.
    async fn push(&self, job: J, cx: &TaskContext) -> Result<(), BoxError> {
        let release = self.destination.push(job).await.map_err(|error| SharedError(error.into()))?;
        if let Some(release) = release {
            cx.tasks().add(release.named_as(cx.name.clone()));
        }
        Err(Box::new(HandedOff))
    }
}

impl<J> Clone for HandOff<J> {
    fn clone(&self) -> Self {
        Self { destination: Arc::clone(&self.destination), before_head: self.before_head }
    }
}

impl<J> fmt::Debug for HandOff<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOff").field("before_head", &self.before_head).finish_non_exhaustive()
    }
}
