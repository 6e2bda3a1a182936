//! The memory that a request needs after its response is small and bounded. No task holds the
//! buffers of its request, and the registry of an ended request is freed.

use std::{
    alloc::System,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Extensions, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, Observer, Supervisor, Task, When, defer,
    report::RequestReport,
};
use tracing::level_filters::LevelFilter;

use crate::common::{
    Call, Entry, Events, Raw, Server, Witness, alone, answered, one_thread, soon, until, workers,
};

const MB: usize = 1_000_000;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Returns how many bytes are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// Counts the reports of requests, and the failures in these reports.
#[derive(Debug, Clone, Default)]
struct Reports {
    count: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
}

impl Observer for Reports {
    fn on_request_done(&self, report: &RequestReport) {
        self.count.fetch_add(1, SeqCst);
        self.failures.fetch_add(report.failures().len(), SeqCst);
    }
}

/// Serves HTTP/1.1 with heads of up to 1 MB. Each request adds a task that waits for the semaphore.
async fn serve_large_heads(supervisor: &Supervisor, go: &Arc<Semaphore>) -> Server {
    let go = go.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let go = go.clone();
        let waiting = async move { drop(go.acquire().await) };
        request
            .background_tasks()
            .expect("the layer is there")
            .add(Task::new(waiting).when(When::Always));
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
            "hello",
        ))))
    });
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service);
    Server::each(supervisor.clone(), Witness::new(), move |stream| {
        let service = TowerToHyperService::new(service.clone());
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_buf_size(1 << 20);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        async move { connection.await.expect("the connection ends well") }
    })
    .await
}

/// Makes requests with heads of 384 kB, each on a connection that is closed afterwards.
async fn send_large_heads(server: &Server, count: usize) {
    let filler = "x".repeat(384_000);
    let head = format!(
        "GET /path HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-request-id: 7\r\nx-filler: {filler}\r\n\r\n"
    );
    for _ in 0..count {
        let mut client = Raw::connect(server.address).await;
        client.send(&head).await;
        assert!(client.rest().await.ends_with("hello"));
    }
}

/// The subscriber enables spans, so that tasks know the id of the request.
#[test]
fn waiting_tasks_hold_no_head() {
    alone!(waiting_tasks_hold_no_head, || {
        let subscriber = tracing_subscriber::registry();
        tracing::subscriber::set_global_default(subscriber).expect("there is none in this process");
        one_thread().block_on(async {
            let (supervisor, go) = (Supervisor::new(), Arc::new(Semaphore::new(0)));
            let server = serve_large_heads(&supervisor, &go).await;
            send_large_heads(&server, 10).await;
            let before = allocated();
            send_large_heads(&server, 500).await;
            until(async || supervisor.stats().running == 510).await;
            let grown = allocated().saturating_sub(before);
            let shown = supervisor.tasks();
            assert!(shown.len() == 510 && shown.iter().all(|task| task.path() == Some("/path")));
            assert!(grown < 20 * MB, "500 waiting tasks hold {grown} bytes");
            go.add_permits(510);
            soon(supervisor.idle()).await;
        });
    });
}

/// Checks that a task, a report or a log line keeps the first 1024 bytes of a text, up to a whole
/// character.
fn assert_cut(kept: &str, text: &str) {
    assert!(
        kept.len() <= 1_024,
        "{} bytes of a text from the request are kept",
        kept.len()
    );
    assert!(
        kept.len() > 1_000 && text.starts_with(kept),
        "it is cut too short, or changed: {kept}"
    );
}

/// The path has characters of two bytes, one of which lies on the limit.
///
/// The event of the failure has them only if there is no span.
#[tokio::test]
async fn path_and_request_id_are_cut() {
    for (level, name) in [
        (LevelFilter::TRACE, "the span"),
        (LevelFilter::WARN, "the event"),
    ] {
        let (with_path, with_id) = cut(level).await;
        assert!(with_path >= 1, "{name} has the path");
        assert!(with_id >= 1, "{name} has the request's id");
    }
}

/// Checks all texts of a request that are kept. Returns how many spans and events have its path,
/// and how many have its id.
async fn cut(level: LevelFilter) -> (usize, usize) {
    let path = format!("/{}", "é".repeat(2_000));
    let id = "7".repeat(4_000);
    let (events, _guard) = Events::up_to(level);
    let supervisor = Supervisor::new();
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = paths.clone();
    let go = Arc::new(Semaphore::new(0));
    let going = go.clone();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |request: Request<()>| {
            let tasks = request.background_tasks().expect("the layer is there");
            let (seen, going) = (seen.clone(), going.clone());
            let task = Task::with_context(async move |cx| {
                drop(going.acquire().await);
                seen.lock().unwrap().push(
                    cx.end()
                        .expect("it is a task of a request")
                        .path()
                        .to_owned(),
                );
                Err::<(), _>("as it should")
            });
            tasks.add(task.named("fails"));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
        },
    ));
    let request = Request::get(&path)
        .header("x-request-id", &id)
        .body(())
        .expect("the path is valid");
    let Ok(response) = service.oneshot(request).await;
    response.into_body().collect().await.expect("a whole body");
    until(async || supervisor.stats().running == 1).await;
    assert_eq!(supervisor.tasks().len(), 1);
    assert_cut(
        supervisor.tasks()[0]
            .path()
            .expect("it is a task of a request"),
        &path,
    );
    go.add_permits(1);
    soon(supervisor.idle()).await;

    let paths = paths.lock().unwrap();
    assert_eq!(paths.len(), 1);
    assert_cut(&paths[0], &path);
    let (mut with_path, mut with_id) = (0, 0);
    for entry in events.all() {
        let ours = match &entry {
            Entry::New { name, .. } => *name == "background_task",
            Entry::Event { target, .. } => target.starts_with("tower_background"),
            _ => false,
        };
        if let (true, Some(path_field)) = (ours, entry.field("path")) {
            assert_cut(path_field, &path);
            with_path += 1;
        }
        if let (true, Some(id_field)) = (ours, entry.field("request_id")) {
            assert_cut(id_field, &id);
            with_id += 1;
        }
    }
    (with_path, with_id)
}

/// Hands the extensions of each request on to the next one, under two supervisors in turn.
fn hand_on(requests: usize, mut extensions: Extensions) -> Extensions {
    let supervisors = [Supervisor::new(), Supervisor::new()];
    for nth in 0..requests {
        let left = Mutex::new(Extensions::new());
        let service = service_fn(|mut request: Request<()>| {
            *left.lock().unwrap() = std::mem::take(request.extensions_mut());
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                "hello",
            ))))
        });
        let mut request = Request::new(());
        *request.extensions_mut() = extensions;
        let layer = BackgroundLayer::with_supervisor(supervisors[nth % 2].clone());
        let Ok(response) = layer
            .layer(service)
            .oneshot(request)
            .now_or_never()
            .expect("the handler does not wait");
        response
            .into_body()
            .collect()
            .now_or_never()
            .expect("the body does not wait")
            .expect("the body does not fail");
        extensions = left.into_inner().unwrap();
    }
    assert!(
        supervisors
            .iter()
            .all(|supervisor| supervisor.open_responses() == 0)
    );
    extensions
}

#[test]
fn dropping_extensions_that_were_handed_on_needs_little_stack() {
    alone!(
        dropping_extensions_that_were_handed_on_needs_little_stack,
        || {
            let dropping = thread::spawn(|| drop(hand_on(400_000, Extensions::new())));
            dropping.join().expect("it does not panic");
        }
    );
}

#[test]
fn extensions_that_are_handed_on_keep_no_ended_request() {
    alone!(extensions_that_are_handed_on_keep_no_ended_request, || {
        let extensions = hand_on(100, Extensions::new());
        let before = allocated();
        let _extensions = hand_on(2_000, extensions);
        let grown = allocated().saturating_sub(before);
        assert!(grown < 100_000, "2,000 ended requests leave {grown} bytes");
    });
}

/// The number of allocated bytes before the chain, and the most that its tasks saw.
#[derive(Default)]
struct Chain {
    least: AtomicUsize,
    most: AtomicUsize,
}

/// A task that adds the next task. Some tasks note how much is allocated.
fn link(left: usize, chain: Arc<Chain>) -> Task {
    Task::new(async move {
        if left % 10_000 == 0 {
            chain.most.fetch_max(allocated(), SeqCst);
        }
        if left > 0 {
            defer(link(left - 1, chain)).expect("a task belongs to a request");
        }
    })
}

fn assert_bounded(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let reports = Reports::default();
        let supervisor = Supervisor::builder().observer(reports.clone()).build();
        let tasks = answered(&supervisor, "/").await;
        // The first tasks let buffers grow to the size that they need.
        tasks.add(link(10_000, Arc::default()));
        soon(supervisor.idle()).await;
        let chain = Arc::new(Chain::default());
        chain.least.store(allocated(), SeqCst);
        tasks.add(link(1_000_000, chain.clone()));
        // A million tasks take long without optimisation.
        while supervisor.stats().pending() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let grown = chain
            .most
            .load(SeqCst)
            .saturating_sub(chain.least.load(SeqCst));
        assert_eq!(supervisor.stats().succeeded, 1_010_002);
        assert!(
            grown < MB,
            "a request whose tasks add 1,000,000 tasks grows by {grown} bytes"
        );
    });
}

#[test]
fn an_observed_chain_of_tasks_keeps_nothing() {
    alone!(an_observed_chain_of_tasks_keeps_nothing, || assert_bounded(
        &one_thread()
    ));
}

#[test]
fn an_observed_chain_of_tasks_keeps_nothing_on_two_workers() {
    alone!(
        an_observed_chain_of_tasks_keeps_nothing_on_two_workers,
        || assert_bounded(&workers(2))
    );
}

/// The report of a request with 150 failures has the first 100 of them.
#[tokio::test]
async fn a_report_has_the_first_failures() {
    let reports = Reports::default();
    let supervisor = Supervisor::builder().observer(reports.clone()).build();
    let call = Call::new(&supervisor, "/");
    for _ in 0..150 {
        call.tasks.add(async { Err::<(), _>("as it should") });
    }
    call.tasks.add(async {});
    call.finish().await;
    soon(supervisor.idle()).await;
    assert_eq!(
        (supervisor.stats().failed, supervisor.stats().succeeded),
        (150, 1)
    );
    assert_eq!(
        (reports.count.load(SeqCst), reports.failures.load(SeqCst)),
        (1, 100)
    );
}
