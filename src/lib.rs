//! Tower middleware that runs tasks after the response was sent.
//!
//! A handler often has work that its client need not wait for: a mail, a cache to fill, a line in an audit log. Awaited in the
//! handler, it delays the answer. Spawned, it competes with the answer that is not yet written, nobody knows whether that
//! answer went out, and nobody sees the work fail. Here the handler adds the work to the request's [`BackgroundTasks`]; it runs
//! when the response is over, knows how that went, and is counted until its end. The example `spawn_or_layer` prints:
//!
//! ```text
//! a welcome mail, by              tokio::spawn            tower-background
//! starts                          before the answer       after the answer
//! when the sign-up then fails     is sent all the same    is skipped
//! when the mail server refuses    nobody knows            is counted and reported
//! when the process is to stop     is cut off              is sent before the exit
//! ```
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
//! let response = app.oneshot(Request::post("/sign-up").body(Body::from("ada@example.org"))?).await?;
//! assert_eq!(supervisor.stats().collected, 1, "the response is not over");
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
//! Each request has exactly one [`ResponseEnd`], and its tasks are released exactly once. Which of them run depends on its
//! [`End`] and on each task's condition:
//!
//! | [`End`] | when | tasks that run |
//! |---|---|---|
//! | [`Complete`](End::Complete) | the server took all of it | all; [`When::Success`] if no error status says otherwise |
//! | [`Aborted`](End::Aborted) | the client left, or the server stopped | [`When::Responded`] (the default), [`When::Always`] |
//! | [`BodyError`](End::BodyError) | the body failed, or contradicted its head | [`When::Responded`], [`When::Always`] |
//! | [`Unfinished`](End::Unfinished) | it is open, `release_after` ran out | [`When::Responded`], [`When::Always`] |
//! | [`Panicked`](End::Panicked) | the body panicked, or the service did | as above for the body, else [`When::Always`] |
//! | [`ServiceError`](End::ServiceError) | the service returned an error | [`When::Always`] |
//! | [`Cancelled`](End::Cancelled) | the response was given up before its head | [`When::Always`] |
//!
//! An unfinished response is one that [`release_after`](SupervisorBuilder::release_after) did not wait for. A condition of
//! one's own, by [`When::matches`], decides for any end. Whatever happens, each task that was added is in exactly one of the
//! figures of [`Stats`], and the response itself passes through untouched, but for what [`Release::Sent`] tells.
//!
//! The end of a response is what the server sees: it has taken all of it, and writes the last of it to the socket at about
//! that time. Tasks are started so that this write comes first as a rule, but no middleware can promise it. With
//! [`Release::Sent`], and the IO of a connection wrapped, they wait until the socket took the last byte.
//!
//! # Features
//!
//! None is on by default, and none changes what the others do.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` | [`BackgroundTasks`] as an extractor, [`Task`] as a part of a response |
//! | `sent` | [`SentStream`](guide::sent), for [`Release::Sent`]: tasks start when the socket took the last byte |
//! | `sent-axum` | `serve`, the same for axum: its own `serve` with connections that are tracked |
//! | `sent-tonic` | the same for tonic's `serve_with_incoming`; needs the Rust that tonic needs |
//! | `tonic` | [`BackgroundTasksExt`] for `tonic::Request`, [`MissingLayer`] into `tonic::Status`, the layer around one service of a server; needs the Rust that tonic needs, 1.88 for 0.14.9 |
//! | `tower` | `background()` on `tower::ServiceBuilder` |
//! | `tracing` | a span for each task, which follows from the request's and has its `x-request-id`; events for failures and refusals |
//! | `metrics` | counters, gauges and histograms through the `metrics` facade |
//!
//! # Guides
//!
//! The module [`guide`] has one for axum, tonic and hyper each, for tests, for a stop at SIGTERM under Kubernetes and systemd,
//! for logs, figures, alerts and a dashboard, and for those who move here from `tokio::spawn`, FastAPI or PHP. The README has a
//! whole service, a comparison with what others do, and what a request costs.
//!
//! # What it is not
//!
//! No queue: tasks live in the process and end with it. What must survive a crash belongs into a database or a queue. No proof of
//! delivery: a response is complete when the server, or with [`Release::Sent`] the socket, took all of it. No scheduler: it runs
//! nothing at a time, and nothing twice.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod bounds;
mod builder;
mod context;
mod current;
mod end;
mod error;
mod exchange;
mod future;
mod gate;
pub mod guide;
mod job;
mod lane;
mod layer;
mod lease;
mod ledger;
mod log;
mod marker;
mod meter;
#[cfg(all(test, background_loom))]
mod models;
#[cfg(all(test, background_loom))]
mod models_books;
#[cfg(all(test, background_loom, feature = "sent"))]
mod models_sent;
mod moment;
mod name;
mod observer;
mod order;
mod outcome;
mod panics;
mod parked;
mod progress;
mod queue;
mod registry;
mod release;
mod report;
mod request;
mod room;
mod runner;
#[cfg(feature = "sent")]
mod sent_body;
#[cfg(feature = "sent")]
mod sent_connection;
#[cfg(feature = "sent")]
mod sent_frames;
#[cfg(feature = "sent")]
mod sent_gauge;
#[cfg(feature = "sent")]
mod sent_guard;
#[cfg(feature = "sent")]
mod sent_service;
#[cfg(feature = "sent")]
mod sent_stream;
#[cfg(feature = "sent")]
mod sent_tail;
#[cfg(feature = "sent")]
mod sent_waits;
mod service;
mod shutdown;
mod spare;
mod stats;
mod supervisor;
mod sync;
mod tail;
mod task;
mod tasks;
mod when;
mod work;

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "sent-axum")]
mod sent_axum;
#[cfg(feature = "sent-tonic")]
mod sent_tonic;
#[cfg(feature = "tonic")]
mod tonic;
#[cfg(feature = "tower")]
mod tower;

#[cfg(feature = "metrics")]
pub use self::meter::describe_metrics;
#[cfg(feature = "sent-axum")]
pub use self::sent_axum::{SentIncoming, SentListener, SentMakeFuture, SentMakeService, SentRouter, SentRouterFuture, serve};
#[cfg(feature = "tower")]
pub use self::tower::ServiceBuilderExt;
pub use self::{
    body::ResponseBody,
    builder::SupervisorBuilder,
    context::TaskContext,
    end::{BodyError, End, ResponseEnd},
    error::{BoxError, MissingLayer},
    future::ResponseFuture,
    layer::BackgroundLayer,
    moment::Release,
    observer::Observer,
    order::Order,
    outcome::Outcome,
    report::{BatchReport, RunningTask, TaskReport, TaskState},
    request::BackgroundTasksExt,
    service::Background,
    shutdown::ShutdownReport,
    stats::Stats,
    supervisor::Supervisor,
    task::{Task, TaskOutput},
    tasks::{BackgroundTasks, defer},
    when::When,
};
#[cfg(feature = "sent")]
pub use self::{
    sent_body::SentBody,
    sent_connection::{SentConnectInfo, SentConnection},
    sent_service::{SentFuture, SentLayer, SentService},
    sent_stream::SentStream,
};

/// The code of the README.
#[cfg(all(doctest, feature = "axum", feature = "metrics"))]
#[doc = include_str!("../README.md")]
mod readme {}
