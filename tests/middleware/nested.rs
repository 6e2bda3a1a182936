//! Layers can be nested. Layers of one supervisor share a registry, whose tasks start at the end of
//! the outermost response. Each other supervisor has its own registry.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::Request,
    middleware::Next,
    response::Response,
    routing::{MethodRouter, get},
};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, util::MapRequestLayer};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, EndKind, Supervisor};
use tower_http::compression::CompressionLayer;
use tracing::Level;

use crate::common::{
    Course, Events, Script, Server, Step, Witness, chunk, get as request, open, soon, text,
};

/// What the handlers of these tests answer.
const INNER: &str = "inner";

/// Leaves a witness and the course of its body, for who replaces the body.
async fn handler(Extension(witness): Extension<Witness>, tasks: BackgroundTasks) -> Response {
    let course = witness.watch(&tasks);
    let mut response = Response::new(Body::from(INNER));
    response.extensions_mut().insert(course);
    response
}

/// Reads the whole body, and answers with it and with more data. That waits until `go` is notified.
async fn delay(Extension(go): Extension<Arc<Notify>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let course = response
        .extensions()
        .get::<Course>()
        .expect("the handler leaves it")
        .clone();
    let (mut parts, body) = response.into_parts();
    // A nested router declares the length of its own body.
    parts.headers.remove(CONTENT_LENGTH);
    let body = body.collect().await.expect("a whole body").to_bytes();
    let steps = [Step::data(body), Step::Wait(go), Step::data(", outer")];
    Response::from_parts(
        parts,
        Body::new(Script::new(steps).seen_by(course.expect_body())),
    )
}

/// Leaves a task under a name, as a layer between ours may.
async fn leave_middle(request: Request, next: Next) -> Response {
    request
        .background_tasks()
        .expect("a layer is there")
        .add(named_middle());
    next.run(request).await
}

fn named_middle() -> tower_background::Task {
    tower_background::Task::new(async {}).named("middle")
}

/// Removes the task that was added between the layers. This succeeds only if both layers use one
/// registry.
async fn take_middle(tasks: BackgroundTasks) -> String {
    format!(
        "{} {}",
        tasks.remove("middle"),
        BackgroundTasks::current()
            .expect("a layer is there")
            .remove("middle")
    )
}

async fn serve(
    router: Router,
    supervisor: &Supervisor,
    witness: &Witness,
    go: &Arc<Notify>,
) -> Server {
    // Outside of the layers, so that all of what is between them finds it.
    let router = router
        .layer(Extension(witness.clone()))
        .layer(Extension(go.clone()));
    Server::serve(router, supervisor.clone(), witness.clone()).await
}

/// Waits for all tasks, and checks that this many were added and succeeded, and that the witness
/// has seen no further end.
async fn assert_all_succeeded(supervisor: &Supervisor, witness: &Witness, tasks: u64) {
    soon(supervisor.idle()).await;
    witness.nothing_else().await;
    let stats = supervisor.stats();
    assert_eq!(
        (stats.added(), stats.succeeded),
        (tasks, tasks),
        "{stats:?}"
    );
}

/// The ways in which a router can put the same layer around a request twice.
fn stacked(
    layer: &BackgroundLayer,
    between: impl Fn(Router) -> Router,
    handler: &MethodRouter,
) -> Vec<(Router, &'static str)> {
    let route = Router::new().route("/route", handler.clone());
    vec![
        (
            between(route.clone().layer(layer.clone())).layer(layer.clone()),
            "/route",
        ),
        (
            between(Router::new().nest("/api", route.clone().layer(layer.clone())))
                .layer(layer.clone()),
            "/api/route",
        ),
        (
            between(Router::new().fallback_service(route.clone().layer(layer.clone())))
                .layer(layer.clone()),
            "/route",
        ),
        (
            between(Router::new().route("/route", handler.clone().layer(layer.clone())))
                .layer(layer.clone()),
            "/route",
        ),
        (
            between(
                Router::new()
                    .merge(route.route_layer(layer.clone()))
                    .layer(layer.clone()),
            )
            .layer(layer.clone()),
            "/route",
        ),
    ]
}

#[tokio::test]
async fn one_registry() {
    let supervisor = Supervisor::new();
    let layer = BackgroundLayer::with_supervisor(supervisor.clone());
    let between = |router: Router| router.layer(axum::middleware::from_fn(leave_middle));
    for (nth, (router, path)) in stacked(&layer, between, &get(take_middle))
        .into_iter()
        .enumerate()
    {
        let server = serve(router, &supervisor, &Witness::new(), &Arc::default()).await;
        assert_eq!(text(&server, path).await, "1 0", "router {nth}");
    }
    assert_eq!(
        (supervisor.stats().added(), supervisor.stats().removed),
        (5, 5)
    );
}

#[tokio::test]
async fn nothing_runs_before_the_outermost_end() {
    let layer_of = |supervisor: &Supervisor| BackgroundLayer::with_supervisor(supervisor.clone());
    for nth in 0..5 {
        let (supervisor, witness, go) =
            (Supervisor::new(), Witness::new(), Arc::new(Notify::new()));
        let between = |router: Router| router.layer(axum::middleware::from_fn(delay));
        let (router, path) =
            stacked(&layer_of(&supervisor), between, &get(handler)).swap_remove(nth);
        let server = serve(router, &supervisor, &witness, &go).await;

        let mut response = open(&server, path).await;
        assert_eq!(chunk(&mut response).await, INNER);
        // The inner body is gone, and so is the inner layer's response.
        let stats = supervisor.stats();
        assert_eq!(
            (stats.added(), stats.deferred),
            (1, 1),
            "router {nth}: {stats:?}"
        );
        go.notify_one();
        assert_eq!(
            soon(response.text()).await.expect("a whole body"),
            ", outer"
        );

        assert_eq!(
            witness.next().await.cell(),
            "Complete, 12 B",
            "router {nth}"
        );
        assert_all_succeeded(&supervisor, &witness, 1).await;
    }
}

/// A client that leaves during the outer body interrupts the response, although the inner body was
/// complete.
#[tokio::test]
async fn the_outermost_end_is_the_end() {
    let (supervisor, witness, go) = (Supervisor::new(), Witness::new(), Arc::new(Notify::new()));
    let layer = BackgroundLayer::with_supervisor(supervisor.clone());
    let between = |router: Router| router.layer(axum::middleware::from_fn(delay));
    let (router, path) = stacked(&layer, between, &get(handler)).swap_remove(0);
    let server = serve(router, &supervisor, &witness, &go).await;

    let mut response = open(&server, path).await;
    assert_eq!(chunk(&mut response).await, INNER);
    drop(response);
    assert_eq!(witness.next().await.cell(), "Interrupted, 5 B");
    assert_all_succeeded(&supervisor, &witness, 1).await;
}

#[tokio::test]
async fn compression_between() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let layer = BackgroundLayer::with_supervisor(supervisor.clone());
    let watching = witness.clone();
    let handler = async move |tasks: BackgroundTasks| {
        let steps = [
            Step::data(vec![b'a'; 100_000]),
            Step::data(vec![b'b'; 100_000]),
        ];
        // Only the part that compression reads: it has bytes of its own to send when this is over.
        Body::new(Script::new(steps).seen_by(watching.watch(&tasks).expect_body()))
    };
    let router = Router::new()
        .route("/", get(handler))
        .layer(layer.clone())
        .layer(CompressionLayer::new())
        .layer(layer);
    let server = serve(router, &supervisor, &witness, &Arc::default()).await;

    let response = soon(request(&server, "/").header(ACCEPT_ENCODING, "gzip").send())
        .await
        .expect("it answers");
    assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    let compressed = soon(response.bytes()).await.expect("a whole body");
    let seen = witness.next().await;
    assert_eq!(
        (seen.end.kind(), seen.end.bytes()),
        (EndKind::Complete, compressed.len() as u64)
    );
    assert!(compressed.len() < 100_000, "the inner layer has seen more");
    assert_all_succeeded(&supervisor, &witness, 1).await;
}

/// The layer of one supervisor is around that of another. Each supervisor sees the end of its own
/// response.
#[tokio::test]
async fn different_supervisors() {
    let (events, _guard) = Events::record();
    let (outer, inner) = (Supervisor::new(), Supervisor::new());
    let (witness, outer_witness, go) = (Witness::new(), Witness::new(), Arc::new(Notify::new()));
    let watching = outer_witness.clone();
    let watch_outer = MapRequestLayer::new(move |request: Request| {
        watching.watch(
            &request
                .background_tasks()
                .expect("the outer layer is there"),
        );
        request
    });
    let router = Router::new()
        .route("/", get(handler))
        .layer(BackgroundLayer::with_supervisor(inner.clone()))
        .layer(axum::middleware::from_fn(delay_alone))
        .layer(watch_outer)
        .layer(BackgroundLayer::with_supervisor(outer.clone()));
    let server = serve(router, &inner, &witness, &go).await;

    let mut response = open(&server, "/").await;
    assert_eq!(chunk(&mut response).await, INNER);
    assert_eq!(witness.next().await.cell(), "Complete, 5 B");
    soon(inner.idle()).await;
    let stats = outer.stats();
    assert_eq!((stats.added(), stats.deferred), (1, 1), "{stats:?}");

    go.notify_one();
    assert_eq!(
        soon(response.text()).await.expect("a whole body"),
        ", outer"
    );
    assert_eq!(outer_witness.next().await.cell(), "Complete, 12 B");
    assert_all_succeeded(&inner, &witness, 1).await;
    assert_all_succeeded(&outer, &outer_witness, 1).await;

    // Further requests are not warned of.
    go.notify_one();
    assert_eq!(text(&server, "/").await, "inner, outer");
    let warnings: Vec<_> = events
        .ours()
        .into_iter()
        .filter(|(level, _)| *level == Level::WARN)
        .collect();
    let [(_, warning)] = &warnings[..] else {
        panic!("one warning: {warnings:?}")
    };
    assert!(
        warning.contains("different supervisors") && warning.contains("path=\"/\" "),
        "{warning}"
    );
}

/// As [`delay`], where the witness's response is the inner one.
async fn delay_alone(
    Extension(go): Extension<Arc<Notify>>,
    request: Request,
    next: Next,
) -> Response {
    let body = next
        .run(request)
        .await
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    Response::new(Body::new(Script::new([
        Step::data(body),
        Step::Wait(go),
        Step::data(", outer"),
    ])))
}

/// The layers of two supervisors take turns. Each supervisor has one registry, and the request has
/// the one that was opened last.
#[tokio::test]
async fn in_turn() {
    let [a, b] = [Supervisor::new(), Supervisor::new()];
    let leave = || axum::middleware::from_fn(leave_middle);
    let layer = |supervisor: &Supervisor| BackgroundLayer::with_supervisor(supervisor.clone());
    let open = [a.clone(), b.clone()];
    let handler =
        get(async move || format!("{:?}", open.each_ref().map(Supervisor::open_responses)));
    let router = Router::new()
        .route("/", handler)
        .layer(leave())
        .layer(layer(&b))
        .layer(leave())
        .layer(layer(&a))
        .layer(leave())
        .layer(layer(&b))
        .layer(leave())
        .layer(layer(&a));
    let server = serve(router, &a, &Witness::new(), &Arc::default()).await;
    assert_eq!(
        text(&server, "/").await,
        "[1, 1]",
        "the inner layers open no registry"
    );
    soon(async { tokio::join!(a.idle(), b.idle()) }).await;
    assert_eq!(
        (a.stats().added(), a.stats().succeeded),
        (1, 1),
        "what was added between the outer two"
    );
    assert_eq!(
        (b.stats().added(), b.stats().succeeded),
        (3, 3),
        "what was added below"
    );
    assert_eq!((a.open_responses(), b.open_responses()), (0, 0));
}

/// If a request is sent again after its response is over, it gets a new registry.
#[tokio::test]
async fn a_request_that_is_sent_again() {
    let (supervisor, witness) = (Supervisor::new(), Witness::new());
    let kept: Arc<Mutex<Option<http::Extensions>>> = Arc::default();
    let (watching, keeping) = (witness.clone(), kept.clone());
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let tasks = request.background_tasks().expect("the layer is there");
        *keeping.lock().expect("no test panics with it") = Some(request.extensions().clone());
        let course = watching.watch(&tasks);
        let path = request.uri().path().to_owned();
        let body = Script::new([Step::data(path)]).seen_by(course.expect_body());
        std::future::ready(Ok::<_, Infallible>(http::Response::new(body)))
    });
    let inner = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service);
    let again = ServiceBuilder::new().service_fn(
        move |mut request: http::Request<hyper::body::Incoming>| {
            let (inner, kept) = (inner.clone(), kept.clone());
            async move {
                if let Some(extensions) = kept.lock().expect("no test panics with it").take() {
                    *request.extensions_mut() = extensions;
                }
                inner.oneshot(request).await
            }
        },
    );
    let server = Server::serve(again, supervisor.clone(), witness.clone()).await;
    // Paths of different lengths: the second end is not the first one once more.
    for (path, cell) in [("/first", "Complete, 6 B"), ("/second", "Complete, 7 B")] {
        assert_eq!(text(&server, path).await, path);
        assert_eq!(witness.next().await.cell(), cell);
    }
    assert_all_succeeded(&supervisor, &witness, 2).await;
}
