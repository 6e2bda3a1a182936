//! The feature `tracing`: each task has a span that is linked to the request's span, and each
//! outcome is an event.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasksExt, BoxError, NotInRequest, ServiceBuilderExt as _,
    Supervisor, Task, When, defer,
};
#[cfg(feature = "sent")]
use tower_background::{StartOn, sent::SentStream};
use tower_http::{
    ServiceBuilderExt as _,
    request_id::{MakeRequestId, RequestId},
    trace::TraceLayer,
};
use tracing::{Level, level_filters::LevelFilter};

use crate::common::{
    Call, Entry, Events, Fields, Script, Server, Step, Witness, answered, get, soon,
};

const TASK: &str = "background_task";

const ENDED: (Level, &str) = (Level::DEBUG, "a background task ended");
const UNFINISHED: (Level, &str) = (Level::WARN, "a background task did not finish");
const FAILED: (Level, &str) = (Level::ERROR, "a background task failed");

/// The spans of tasks: number and parent, and their fields as they were made.
fn task_spans(events: &[Entry]) -> Vec<(u64, Option<u64>, Fields)> {
    let spans = events.iter().filter_map(|entry| match entry {
        Entry::New {
            span,
            name: TASK,
            parent,
            fields,
        } => Some((*span, *parent, fields.clone())),
        _ => None,
    });
    spans.collect()
}

fn position(events: &[Entry], which: impl Fn(&Entry) -> bool) -> usize {
    events
        .iter()
        .position(which)
        .unwrap_or_else(|| panic!("no such entry in {events:#?}"))
}

/// The events of this crate: level, message, and the span that they are in.
fn told(events: &[Entry]) -> Vec<(Level, &str, Option<u64>)> {
    let ours = events.iter().filter_map(|entry| match entry {
        Entry::Event {
            level,
            target,
            span,
            ..
        } if target.starts_with("tower_background") => {
            Some((*level, entry.message().unwrap_or(""), *span))
        }
        _ => None,
    });
    ours.collect()
}

#[tokio::test]
async fn each_task_has_a_span_that_is_a_root_and_follows_from_where_it_was_added() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/order?secret");
    let request = tracing::info_span!("request");
    let number = request.id().expect("it is recorded").into_u64();
    request.in_scope(|| {
        call.tasks
            .add(Task::new(async { tracing::info!("in the task") }).named("mail"));
        call.tasks.add(async { tracing::info!("in another task") });
    });
    drop(request);
    call.finish().await;
    soon(supervisor.idle()).await;

    let events = events.all();
    let spans = task_spans(&events);
    let [(mail, None, fields), (other, None, other_fields)] = &spans[..] else {
        panic!("{spans:?}")
    };
    let field = |name| fields.get(name).map(String::as_str);
    assert_eq!(
        (field("task"), field("method"), field("path")),
        (Some("mail"), Some("GET"), Some("/order"))
    );
    assert_eq!(other_fields.get("task"), None, "it has no name");
    for (span, message) in [(*mail, "in the task"), (*other, "in another task")] {
        assert!(events.contains(&Entry::Follows { span, from: number }));
        let inside = position(&events, |entry| entry.message() == Some(message));
        assert!(
            matches!(events[inside], Entry::Event { span: Some(of), .. } if of == span),
            "{:?}",
            events[inside]
        );
        let outcome = position(
            &events,
            |entry| matches!(entry, Entry::Record { span: of, .. } if *of == span),
        );
        assert_eq!(events[outcome].field("outcome"), Some("succeeded"));
        assert!(inside < outcome);
        let closed = position(&events, |entry| *entry == Entry::Close { span, name: TASK });
        assert!(outcome < closed);
    }
    let request_closed = position(&events, |entry| {
        *entry
            == Entry::Close {
                span: number,
                name: "request",
            }
    });
    let first_start = position(&events, |entry| entry.message() == Some("a task started"));
    assert!(
        request_closed < first_start,
        "a task that is kept for later does not keep the request's span"
    );
}

#[tokio::test]
async fn a_failure_is_told_where_nobody_wants_spans() {
    let (events, _guard) = Events::up_to(LevelFilter::ERROR);
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    call.tasks
        .add(Task::new(async { Err::<(), _>("broken") }).named("mail"));
    call.finish().await;
    soon(supervisor.idle()).await;
    let events = events.all();
    assert_eq!(task_spans(&events), []);
    assert_eq!(
        told(&events),
        [(Level::ERROR, "a background task failed", None)]
    );
}

#[tokio::test]
async fn a_task_of_a_task_follows_from_the_task() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    let tasks = answered(&supervisor, "/").await;
    tasks.add(Task::new(async { defer(Task::new(async {}).named("child")) }).named("parent"));
    soon(supervisor.idle()).await;
    let events = events.all();
    let spans = task_spans(&events);
    let [(parent, None, _), (child, None, _)] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert!(events.contains(&Entry::Follows {
        span: *child,
        from: *parent
    }));
}

#[tokio::test]
async fn a_task_without_a_request_span_follows_from_nothing() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    answered(&supervisor, "/").await.add(async {});
    soon(supervisor.idle()).await;
    let events = events.all();
    assert_eq!(task_spans(&events).len(), 1);
    assert!(
        !events
            .iter()
            .any(|entry| matches!(entry, Entry::Follows { .. })),
        "{events:?}"
    );
}

fn panics(place: &str) {
    panic!("at {place}");
}

/// Adds only this task, and returns its last event and the outcome that its span has recorded.
async fn outcome_of(supervisor: &Supervisor, path: &str, task: Task) -> (Entry, String) {
    let (events, _guard) = Events::record();
    let call = Call::new(supervisor, path);
    call.tasks.add(task);
    call.finish().await;
    soon(supervisor.idle()).await;
    let events = events.all();
    let spans = task_spans(&events);
    let [(span, ..)] = spans[..] else {
        panic!("{spans:?}")
    };
    let last = events
        .iter()
        .rfind(|entry| matches!(entry, Entry::Event { span: Some(of), .. } if *of == span));
    let outcome = events.iter().find_map(|entry| match entry {
        Entry::Record { span: of, fields } if *of == span => fields.get("outcome"),
        _ => None,
    });
    (
        last.expect("there is an event in the task's span").clone(),
        outcome.expect("there is an outcome").clone(),
    )
}

#[tokio::test(start_paused = true)]
async fn each_outcome_has_its_level_and_fields() {
    let supervisor = Supervisor::new();
    let second = Duration::from_secs(1);
    let cases = [
        (Task::new(async {}), ENDED, "succeeded", None),
        (
            Task::new(async {}).when(When::matches(|_| false)),
            ENDED,
            "skipped",
            None,
        ),
        (
            Task::new(async { Err("no such host") }),
            FAILED,
            "failed",
            Some("no such host"),
        ),
        (
            Task::new(async { panics("once") }),
            FAILED,
            "panicked",
            Some("at once"),
        ),
        (
            Task::blocking(|| panics("a thread")),
            FAILED,
            "panicked",
            Some("at a thread"),
        ),
        (
            Task::blocking(|| Err("no disk")),
            FAILED,
            "failed",
            Some("no disk"),
        ),
        (
            Task::new(tokio::time::sleep(2 * second)).timeout(second),
            FAILED,
            "timed_out",
            None,
        ),
    ];
    for (task, (level, message), outcome, error) in cases {
        let (event, recorded) = outcome_of(&supervisor, "/order", task.named("mail")).await;
        assert_eq!(
            (event.message(), recorded.as_str()),
            (Some(message), outcome)
        );
        assert!(
            matches!(event, Entry::Event { level: of, .. } if of == level),
            "{event:?}"
        );
        assert_eq!(event.field("error"), error, "{event:?}");
        // The span of the task has them.
        assert_eq!(
            ["task", "path", "outcome"].map(|field| event.field(field)),
            [None; 3],
            "{event:?}"
        );
    }
}

/// Without a span, the event names the task and its request.
#[tokio::test]
async fn an_event_without_a_span_names_the_task_and_its_request() {
    let (events, _guard) = Events::up_to(LevelFilter::WARN);
    let supervisor = Supervisor::new();
    let service = ServiceBuilder::new()
        .background_with(supervisor.clone())
        .service_fn(async |_: Request<()>| {
            defer(Task::new(async { Err("no such host") }).named("mail"))?;
            defer(async { Err("no disk") })?;
            Ok::<_, NotInRequest>(Response::new(Full::<Bytes>::default()))
        });
    let request = Request::post("/order?secret")
        .header("x-request-id", "7")
        .body(())
        .expect("the request is valid");
    drop(service.oneshot(request).await.expect("it answers"));
    soon(supervisor.idle()).await;
    let failed = events.with_message(FAILED.1);
    let fields = |event: &Entry| {
        ["task", "method", "path", "request_id", "outcome", "error"]
            .map(|name| event.field(name).map(str::to_owned))
    };
    let fields: Vec<_> = failed.iter().map(fields).collect();
    let expected = |task: Option<&str>, error: &str| {
        [
            task,
            Some("POST"),
            Some("/order"),
            Some("7"),
            Some("failed"),
            Some(error),
        ]
        .map(|value| value.map(str::to_owned))
    };
    assert_eq!(
        fields,
        [
            expected(Some("mail"), "no such host"),
            expected(None, "no disk")
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn tasks_that_are_cut_off_are_warned_of() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    answered(&supervisor, "/order")
        .await
        .add(Task::new(std::future::pending::<()>()).named("mail"));
    supervisor.shutdown(Duration::from_secs(1)).await;
    let events = events.all();
    let [(span, ..)] = task_spans(&events)[..] else {
        panic!("{events:?}")
    };
    let told = told(&events);
    let expected = [
        (Level::DEBUG, "a task started", Some(span)),
        (UNFINISHED.0, UNFINISHED.1, Some(span)),
        (
            Level::WARN,
            "the grace was too short: 0 tasks were cancelled, 1 task was aborted, 0 responses were \
             open: `mail` of GET /order, which runs",
            None,
        ),
    ];
    assert_eq!(told, expected);
    assert!(
        events
            .iter()
            .any(|entry| entry.field("outcome") == Some("aborted"))
    );
}

#[tokio::test]
async fn what_is_taken_back_is_recorded() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    call.tasks.add(Task::new(async {}).named("mail"));
    assert_eq!(call.tasks.remove("mail"), 1);
    call.finish().await;
    let events = events.all();
    let [(span, ..)] = task_spans(&events)[..] else {
        panic!("{events:?}")
    };
    assert!(
        events
            .iter()
            .any(|entry| entry.field("outcome") == Some("removed"))
    );
    assert!(
        events
            .iter()
            .any(|entry| matches!(entry, Entry::Close { name: TASK, .. }))
    );
    assert_eq!(
        told(&events),
        [(ENDED.0, ENDED.1, Some(span))],
        "the handler asked for it, so it is no warning"
    );
}

#[tokio::test]
async fn a_panic_beside_the_task_is_logged_too() {
    struct Trap;
    impl Drop for Trap {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    let trap = Trap;
    let call = Call::new(&supervisor, "/");
    call.tasks.add(
        Task::new(async move {
            let _trap = trap;
        })
        .named("trap")
        .when(When::matches(|_| false)),
    );
    call.finish().await;
    soon(supervisor.idle()).await;
    let caught = events.with_message("a panic was caught");
    let [caught @ Entry::Event { level, .. }] = &caught[..] else {
        panic!("{caught:?}")
    };
    assert_eq!(
        (*level, caught.field("panic")),
        (Level::ERROR, Some("in a drop"))
    );
    assert_eq!(caught.field("what"), Some("a value that a task owns"));
    assert_eq!(supervisor.stats().skipped, 1);
}

/// Bodies whose end servers come to know in different ways.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Full,
    Empty,
    Chunked,
}

fn respond(kind: Kind) -> Response<UnsyncBoxBody<Bytes, BoxError>> {
    let full = |text: &'static str| {
        Full::<Bytes>::from(text)
            .map_err(|never: Infallible| match never {})
            .boxed_unsync()
    };
    Response::new(match kind {
        Kind::Full => full("onetwo"),
        Kind::Empty => full(""),
        Kind::Chunked => Script::new([Step::data("one"), Step::data("two")])
            .map_err(BoxError::from)
            .boxed_unsync(),
    })
}

#[tokio::test]
async fn the_span_of_a_trace_layer_closes_before_tasks_run() {
    for kind in [Kind::Full, Kind::Empty, Kind::Chunked] {
        for http2 in [false, true] {
            for outside in [false, true] {
                span_closes_before_tasks_run(kind, http2, outside).await;
            }
        }
    }
}

async fn span_closes_before_tasks_run(kind: Kind, http2: bool, outside: bool) {
    let case = format!("{kind:?}, HTTP/2: {http2}, `TraceLayer` outside: {outside}");
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::new();
    let ours = || BackgroundLayer::with_supervisor(supervisor.clone());
    let handler = service_fn(move |_: Request<Incoming>| async move {
        defer(async { tracing::info!("in the task") })?;
        // A second task, which starts together with it.
        defer(async {})?;
        Ok::<_, NotInRequest>(respond(kind))
    });
    let server = if outside {
        let service = ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(ours())
            .service(handler);
        Server::serve(service, supervisor.clone(), Witness::new()).await
    } else {
        let service = ServiceBuilder::new()
            .layer(ours())
            .layer(TraceLayer::new_for_http())
            .service(handler);
        Server::serve(service, supervisor.clone(), Witness::new()).await
    };
    let client = reqwest::Client::builder();
    let client = if http2 {
        client.http2_prior_knowledge()
    } else {
        client
    }
    .build()
    .expect("a client without settings");
    let text = async {
        client
            .get(format!("http://{}/", server.address))
            .send()
            .await?
            .text()
            .await
    };
    assert_eq!(
        soon(text).await.expect("it answers"),
        if matches!(kind, Kind::Empty) {
            ""
        } else {
            "onetwo"
        },
        "{case}"
    );
    soon(supervisor.idle()).await;

    let events = events.all();
    let request = events.iter().find_map(|entry| match entry {
        Entry::New {
            span,
            name: "request",
            ..
        } => Some(*span),
        _ => None,
    });
    let request = request.expect("the layer has made its span");
    let spans = task_spans(&events);
    assert_eq!(spans.len(), 2, "{case}");
    for (span, parent, _) in spans {
        assert_eq!(parent, None, "{case}");
        assert!(
            events.contains(&Entry::Follows {
                span,
                from: request
            }),
            "{case}"
        );
    }
    let closed = position(&events, |entry| {
        *entry
            == Entry::Close {
                span: request,
                name: "request",
            }
    });
    let started = position(&events, |entry| entry.message() == Some("a task started"));
    let ran = position(&events, |entry| entry.message() == Some("in the task"));
    assert!(closed < started && started < ran, "{case}: {events:#?}");
}

/// An id of a request's own, from its header; a second request has another.
#[derive(Debug, Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl MakeRequestId for Counted {
    fn make_request_id<B>(&mut self, _request: &Request<B>) -> Option<RequestId> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Some(RequestId::new(
            format!("made-{number}")
                .parse()
                .expect("it is a header's value"),
        ))
    }
}

/// How a handler comes by its registry.
#[derive(Debug, Clone, Copy)]
enum Way {
    Request,
    Current,
}

fn handle(way: Way, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
    let task = async { tracing::info!("in the task") };
    match way {
        Way::Request => request.background_tasks()?.add(task),
        Way::Current => defer(task)?,
    }
    Ok(Response::new(Full::from("done")))
}

/// Serves one request, with this id if there is one. Returns the id in the response, and the id in
/// the span of the task.
async fn ids<S, E>(
    service: S,
    supervisor: &Supervisor,
    id: Option<&str>,
) -> (Option<String>, Option<String>)
where
    S: Service<Request<Incoming>, Response = Response<E>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
    E: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let (events, _guard) = Events::record();
    let server = Server::serve(service, supervisor.clone(), Witness::new()).await;
    let request = get(&server, "/");
    let request = if let Some(id) = id {
        request.header("x-request-id", id)
    } else {
        request
    };
    let response = soon(request.send()).await.expect("it answers");
    let answered = response
        .headers()
        .get("x-request-id")
        .map(|id| id.to_str().expect("a text").to_owned());
    assert_eq!(soon(response.text()).await.expect("it answers"), "done");
    soon(supervisor.idle()).await;
    let events = events.all();
    let [(span, _, fields)] = &task_spans(&events)[..] else {
        panic!("{events:?}")
    };
    let told = position(&events, |entry| entry.message() == Some("in the task"));
    assert!(
        matches!(events[told], Entry::Event { span: Some(of), .. } if of == *span),
        "its lines are in its span"
    );
    (answered, fields.get("request_id").cloned())
}

#[tokio::test]
async fn a_span_has_the_id_of_its_request() {
    let supervisor = Supervisor::new();
    for way in [Way::Request, Way::Current] {
        let bare = ServiceBuilder::new()
            .background_with(supervisor.clone())
            .service_fn(move |request| ready(handle(way, &request)));
        assert_eq!(
            ids(bare.clone(), &supervisor, Some("sent-1")).await,
            (None, Some("sent-1".to_owned())),
            "{way:?}"
        );
        assert_eq!(
            ids(bare.clone(), &supervisor, None).await,
            (None, None),
            "{way:?}"
        );
        // No text: it is a header all the same, and no reason to fail.
        assert_eq!(
            ids(bare, &supervisor, Some("\u{e9}")).await,
            (None, None),
            "{way:?}"
        );

        let outside = ServiceBuilder::new()
            .set_x_request_id(Counted::default())
            .propagate_x_request_id()
            .background_with(supervisor.clone())
            .service_fn(move |request| ready(handle(way, &request)));
        for id in ["made-0", "made-1"] {
            let id = Some(id.to_owned());
            assert_eq!(
                ids(outside.clone(), &supervisor, None).await,
                (id.clone(), id),
                "{way:?}"
            );
        }
    }
}

/// Tasks that are added by `request.background_tasks()` know an id that is set below the layer.
/// Tasks that are added by `BackgroundTasks::current()` do not.
#[tokio::test]
async fn an_id_that_is_set_below_the_layer_comes_with_the_request() {
    let supervisor = Supervisor::new();
    for (way, found) in [(Way::Request, true), (Way::Current, false)] {
        let inside = ServiceBuilder::new()
            .background_with(supervisor.clone())
            .set_x_request_id(Counted::default())
            .propagate_x_request_id()
            .service_fn(move |request| ready(handle(way, &request)));
        let made = || Some("made-0".to_owned());
        assert_eq!(
            ids(inside, &supervisor, None).await,
            (made(), made().filter(|_| found)),
            "{way:?}"
        );
    }
}

#[cfg(feature = "sent")]
#[tokio::test]
async fn a_connection_that_is_not_tracked_is_logged_once() {
    const UNTRACKED: &str = "tasks should start when the last byte is sent, but this connection is not tracked; they started \
                             when the body was dropped";
    let (events, _guard) = Events::record();
    let warned = || {
        told(&events.all())
            .iter()
            .filter(|event| **event == (Level::WARN, UNTRACKED, None))
            .count()
    };

    let supervisor = Supervisor::new();
    answered(&supervisor, "/").await;
    assert_eq!(warned(), 0, "nobody asked for it");
    let call = Call::new(&supervisor, "/");
    call.tasks.set_start_on(StartOn::LastByteSent);
    call.finish().await;
    assert_eq!(warned(), 1, "a request did");

    let supervisor = Supervisor::builder()
        .start_on(StartOn::LastByteSent)
        .build();
    for _ in 0..3 {
        answered(&supervisor, "/").await;
        assert_eq!(warned(), 2, "it is said of each supervisor once");
    }
}

#[cfg(feature = "sent")]
#[tokio::test]
async fn a_connection_that_is_tracked_is_not_logged() {
    let (events, _guard) = Events::record();
    let supervisor = Supervisor::builder()
        .start_on(StartOn::LastByteSent)
        .build();
    let (stream, other_end) = tokio::io::duplex(16);
    let stream = SentStream::new(stream);
    let respond = |request: Request<()>| {
        request
            .background_tasks()
            .expect("the layer is there")
            .add(async {});
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    };
    let service = ServiceBuilder::new().layer(stream.connection());
    let service = service
        .layer(BackgroundLayer::with_supervisor(supervisor.clone()))
        .service(service_fn(respond));
    drop(service.oneshot(Request::new(())).await.expect("it answers"));
    drop((stream, other_end));
    soon(supervisor.idle()).await;
    assert!(
        told(&events.all())
            .iter()
            .all(|(level, ..)| *level > Level::WARN),
        "{:#?}",
        events.all()
    );
}
