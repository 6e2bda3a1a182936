//! Tower middleware that runs tasks after the response was sent.
//!
//! A handler often has work that its client need not wait for: a mail, a cache to fill, a line in
//! an audit log. [`BackgroundLayer`] gives [`BackgroundTasks`] to each request. The handler adds
//! the work as tasks, and they run when the response is over. The [`Supervisor`] counts, limits,
//! lists and awaits all tasks.
//!
#![cfg_attr(feature = "axum", doc = "```")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::{Router, body::{Body, to_bytes}, http::{Request, StatusCode}, routing::post};
//! use tower::ServiceExt;
//! use tower_background::{BackgroundLayer, BackgroundTasks};
//!
//! async fn sign_up(tasks: BackgroundTasks, address: String) -> StatusCode {
//!     tasks.add(async move { println!("a mail goes to {address}") });
//!     StatusCode::ACCEPTED
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = BackgroundLayer::new();
//! let supervisor = layer.supervisor().clone();
//! let app = Router::new().route("/sign-up", post(sign_up)).layer(layer);
//!
//! let request = Request::post("/sign-up").body(Body::from("ada@example.org"))?;
//! let response = app.oneshot(request).await?;
//! assert_eq!(supervisor.stats().deferred, 1, "the response is not over");
//!
//! to_bytes(response.into_body(), 1024).await?;
//! supervisor.idle().await;
//! assert_eq!(supervisor.stats().succeeded, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - Each response has exactly one [`ResponseEnd`]. When the response is over, each task of its
//!   request starts or is skipped. No task starts twice.
//! - Each task is a separate tokio task, and has exactly one [`Outcome`], which [`Stats`] counts.
//!   After a [shutdown](Supervisor::shutdown) a new task can be [`Refused`], which is counted too.
//! - A task that fails, panics or never ends does not affect the connection, the response or
//!   another task, unless you set a limit or an order.
//! - The response passes through unchanged.
//!
//! A response is over when the server has all of it. The server writes the last bytes to the socket
//! at about that time, and usually before the tasks run. With the feature `sent`, tasks can wait
//! until the socket took the last byte: see [`StartOn`].
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | [`BackgroundTasks`] as an extractor, [`Task`] as a part of a response |
//! | `tracing` | yes | a span for each task, and events for failures and refusals |
//! | `metrics` | | counters, gauges and histograms through the `metrics` facade |
//! | `serde` | | `Serialize` for [`Stats`], [`report`] and [`EndKind`] |
//! | `tonic` | | [`BackgroundTasksExt`] for `tonic::Request`, [`MissingLayer`] as `tonic::Status` |
//! | `sent` | | tasks start when the socket took the last byte, on a connection that you wrap |
//! | `sent-axum` | | `serve` of axum with such connections |
//! | `sent-tonic` | | such connections for tonic |
//!
//! # Guides
//!
//! - Servers: [axum](guide::axum), [tonic](guide::tonic), [hyper](guide::hyper).
//! - Responses and layers: [streams](guide::streams), [middleware](guide::middleware), [last
//!   byte](guide::last_byte).
//! - Operation: [shutdown](guide::shutdown), [observability](guide::observability),
//!   [testing](guide::testing).
//! - Tasks: [limits](guide::limits), [retries](guide::retries), [context](guide::context).
//! - From `tokio::spawn`, FastAPI, Next.js, Laravel or Rack: [moving](guide::moving).
//!
//! If something does not compile or does not run, see [When it does not
//! work](guide::axum#when-it-does-not-work).
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | cancelled | A shutdown asks the task to stop: [`TaskContext::cancelled`] returns. The task goes on until it returns, and keeps its outcome. |
//! | aborted | The task was stopped before it returned. Its outcome is [`Outcome::Aborted`]. |
//! | abandoned | [`ShutdownReport::abandoned`](report::ShutdownReport::abandoned) lists the tasks that a shutdown aborted. |
//! | refused | The supervisor was shut down, and did not take the task. The task has no outcome. |
//! | dropped | Said of a value, such as a future, a body or a handle. The future of an aborted task is dropped. |
//!
//! # Limitations
//!
//! - Tasks live in the process and end with it. Put work that must survive a crash into a queue.
//! - A complete response is no proof of delivery: the client may lose it after the socket took it.
//! - No task runs at a given time, and no task runs twice.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
pub mod guide;
mod integrations;
pub mod middleware;
mod registry;
mod response;
#[cfg(feature = "sent")]
pub mod sent;
mod supervisor;
mod task;
mod util;

/// What the supervisor reports about tasks and requests.
pub mod report {
    pub use crate::{
        response::ResponseError,
        supervisor::{Busy, RequestReport, ShutdownReport, TaskInfo, TaskReport, TaskState},
    };
}

#[doc(inline)]
pub use self::middleware::BackgroundLayer;
#[cfg(feature = "metrics")]
pub use self::util::metrics::describe_metrics;
pub use self::{
    error::{BoxError, MissingLayer, NotInRequest},
    integrations::ServiceBuilderExt,
    registry::{BackgroundTasks, BackgroundTasksExt, TaskHandle, defer},
    response::{EndKind, ResponseEnd},
    supervisor::{Capture, Observer, Scope, Stats, Supervisor, SupervisorBuilder},
    task::{Limit, Order, Outcome, Refused, StartOn, Task, TaskContext, TaskOutput, When},
};
