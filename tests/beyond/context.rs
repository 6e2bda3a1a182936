//! Tasks run in the context of the code that added them, such as a request's trace. The tests use
//! the crates that provide contexts.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn},
    routing::get,
};
use opentelemetry::trace::{SpanId, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use sentry_core::Hub;
use tower_background::{BackgroundTasks, Capture, Scope, Supervisor, Task};
use tracing::{Instrument, info_span};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use crate::common::{Call, Events, Server, output, soon};

tokio::task_local!(static TENANT: &'static str);

struct Tenant;

struct TenantScope(Option<&'static str>);

impl Capture for Tenant {
    fn capture(&self) -> Box<dyn Scope> {
        Box::new(TenantScope(TENANT.try_get().ok()))
    }
}

impl Scope for TenantScope {
    fn enter(&self, poll: &mut dyn FnMut()) {
        match self.0 {
            Some(tenant) => TENANT.sync_scope(tenant, poll),
            None => poll(),
        }
    }
}

/// A task, and the tenant that it saw.
type Sight = (&'static str, Option<&'static str>);

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Sight>>>);

impl Seen {
    fn note(&self, task: &'static str) {
        self.0.lock().unwrap().push((task, TENANT.try_get().ok()));
    }
}

#[tokio::test]
async fn a_task_local_of_a_middleware() {
    async fn middleware(
        request: Request,
        next: Next,
    ) -> Result<axum::response::Response, Infallible> {
        Ok(TENANT.scope("ada", next.run(request)).await)
    }
    async fn handler(tasks: BackgroundTasks, State(seen): State<Seen>) {
        let (task, blocking, spawned) = (seen.clone(), seen.clone(), seen);
        tasks.add(async move { task.note("task") });
        tasks.add(Task::blocking(move || blocking.note("blocking")));
        drop(
            tasks
                .supervisor()
                .spawn(async move { spawned.note("spawned") }),
        );
    }
    let (seen, supervisor) = (
        Seen::default(),
        Supervisor::builder().capture(Tenant).build(),
    );
    let router = Router::new()
        .route("/", get(handler))
        .with_state(seen.clone())
        .layer(from_fn(middleware));
    let server = Server::router(&supervisor, router).await;
    assert_eq!(server.get("/").await.0, 200);
    soon(supervisor.idle()).await;
    let mut seen = seen.0.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("blocking", Some("ada")),
            ("spawned", Some("ada")),
            ("task", Some("ada"))
        ]
    );
}

struct SentryHub;

struct HubScope(Arc<Hub>);

impl Capture for SentryHub {
    fn capture(&self) -> Box<dyn Scope> {
        // A copy, so that what the task sets does not reach the request.
        Box::new(HubScope(Arc::new(Hub::new_from_top(Hub::current()))))
    }
}

impl Scope for HubScope {
    fn enter(&self, poll: &mut dyn FnMut()) {
        Hub::run(Arc::clone(&self.0), poll);
    }
}

#[test]
fn an_error_in_a_task_has_the_tags_of_its_request_in_sentry() {
    let events = sentry_core::test::with_captured_events(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let supervisor = Supervisor::builder().capture(SentryHub).build();
            for path in ["/first", "/second"] {
                let call = Call::new(&supervisor, path);
                Hub::run(Arc::new(Hub::new_from_top(Hub::current())), || {
                    sentry_core::configure_scope(|scope| scope.set_tag("path", path));
                    let report = |kind: &str| {
                        _ = sentry_core::capture_message(kind, sentry_core::Level::Error);
                    };
                    call.tasks.add(async move {
                        tokio::task::yield_now().await;
                        report("task");
                    });
                    call.tasks.add(Task::blocking(move || report("blocking")));
                    drop(supervisor.spawn(async move { report("spawned") }));
                });
                call.finish().await;
            }
            soon(supervisor.idle()).await;
        });
    });
    let mut tagged: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.tags["path"].as_str(),
                event.message.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    tagged.sort_unstable();
    let all = ["/first", "/second"]
        .into_iter()
        .flat_map(|path| ["blocking", "spawned", "task"].map(|kind| (path, kind)));
    assert_eq!(tagged, all.collect::<Vec<_>>());
}

#[tokio::test]
async fn the_span_of_a_task_links_to_the_trace_of_its_request() {
    let (request, tasks) = spans_of(&Supervisor::new()).await;
    for task in tasks {
        assert_eq!(
            task.parent_span_id,
            SpanId::INVALID,
            "a task has a trace of its own"
        );
        assert_ne!(
            task.span_context.trace_id(),
            request.span_context.trace_id()
        );
        let links: Vec<_> = task
            .links
            .iter()
            .map(|link| link.span_context.clone())
            .collect();
        assert_eq!(links, std::slice::from_ref(&request.span_context));
    }
}

#[tokio::test]
async fn the_span_of_a_task_is_a_child_if_the_builder_says_so() {
    let supervisor = Supervisor::builder().child_spans(true).build();
    let (request, tasks) = spans_of(&supervisor).await;
    for task in tasks {
        assert_eq!(task.parent_span_id, request.span_context.span_id());
        assert_eq!(
            task.span_context.trace_id(),
            request.span_context.trace_id()
        );
        assert_eq!(task.links.iter().count(), 0);
    }
}

/// Returns the span of a request, and the spans of its three tasks.
async fn spans_of(supervisor: &Supervisor) -> (SpanData, Vec<SpanData>) {
    // It keeps spans that other tests have made without a subscriber from being disabled for all.
    let (_events, _recording) = Events::record();
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let guard = tracing::subscriber::set_default(Registry::default().with(layer));

    let call = Call::new(supervisor, "/");
    let tasks = call.tasks.clone();
    let add = async {
        tasks.add(Task::new(async {}).named("task"));
        tasks.add(Task::blocking(|| {}).named("blocking"));
        drop(supervisor.spawn(Task::new(async {}).named("spawned")));
    };
    add.instrument(info_span!("request")).await;
    call.finish().await;
    soon(supervisor.idle()).await;
    // The blocking thread may drop its span a little later.
    crate::common::until(async || {
        exporter
            .get_finished_spans()
            .is_ok_and(|spans| spans.len() == 4)
    })
    .await;
    drop(guard);

    let spans = exporter.get_finished_spans().expect("it works");
    let (mut requests, tasks): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|span| span.name == "request");
    assert!(tasks.iter().all(|span| span.name == "background_task"));
    assert_eq!((requests.len(), tasks.len()), (1, 3));
    (requests.remove(0), tasks)
}

#[tokio::test]
async fn the_example_bills_the_tenant_of_each_request() {
    assert_eq!(
        output("context", "axum").await,
        "the bill goes to acme\nthe bill goes to globex\nbills: 2\n"
    );
}
