//! Errors and panics of tasks, observers, conditions and captured values are reported with the name
//! of the task. They disturb neither other tasks nor the connection.

use std::{
    fmt, io,
    panic::panic_any,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, routing::get};
use http::{Response, StatusCode};
use tower_background::{
    BackgroundTasks, Observer, Order, ResponseEnd, Supervisor, SupervisorBuilder, Task, When,
    report::{RequestReport, ShutdownReport, TaskInfo, TaskReport},
};
use tracing::{Level, level_filters::LevelFilter};

use crate::common::{Entry, Events, Held, Raw, Recorder, Script, Server, Step, soon};

/// Panics when it is dropped.
struct Bomb(&'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_any(self.0);
    }
}

/// Panics when it is dropped, with a value that does so too.
struct Bombs;

impl Drop for Bombs {
    fn drop(&mut self) {
        panic_any(Bomb("the second"));
    }
}

/// A future that ends, or does not, and holds a value until it is dropped itself.
struct Holds<T> {
    ends: bool,
    _value: T,
}

impl<T> Holds<T> {
    fn ready(value: T) -> Self {
        Self {
            ends: true,
            _value: value,
        }
    }

    fn pending(value: T) -> Self {
        Self {
            ends: false,
            _value: value,
        }
    }
}

impl<T> Future for Holds<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.ends {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Serves `/`, which leaves these tasks, and `/next`, which leaves one that succeeds.
async fn serve(
    builder: SupervisorBuilder,
    leave: impl Fn(&BackgroundTasks) + Clone + Send + Sync + 'static,
) -> (Server, Recorder) {
    let recorder = Recorder::default();
    let router = Router::new()
        .route(
            "/",
            get(async move |tasks: BackgroundTasks| {
                leave(&tasks);
                "first"
            }),
        )
        .route(
            "/next",
            get(async |tasks: BackgroundTasks| {
                tasks.add(Task::new(async {}).named("next"));
                "second"
            }),
        );
    (
        Server::router(&builder.observer(recorder.clone()).build(), router).await,
        recorder,
    )
}

/// Gets both paths on one connection, the second when all tasks of the first have ended.
async fn visit(server: &Server) {
    let mut client = Raw::connect(server.address).await;
    for (path, body) in [("/", "first"), ("/next", "second")] {
        client.get(path).await;
        let response = client.until(body).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        soon(server.supervisor.idle()).await;
    }
}

/// What was told of each task's end, but that of `next`, in the order of the alphabet.
fn ended(recorder: &Recorder) -> Vec<String> {
    let mut ended = recorder.lines_of("ended");
    ended.sort();
    let next = ended
        .iter()
        .position(|line| line == "ended next succeeded")
        .expect("the next request is as any other");
    ended.remove(next);
    ended
}

/// The error that was logged of the task; there is no other.
fn logged(events: &Events, task: &str, error: &str) {
    let all = events.of_task(task);
    let errors: Vec<_> = all
        .iter()
        .filter(|entry| matches!(entry, Entry::Event { level, .. } if *level == Level::ERROR))
        .collect();
    let [only] = &errors[..] else {
        panic!("{task}: {all:?}")
    };
    assert_eq!(
        (only.message(), only.field("error")),
        (Some("a background task failed"), Some(error)),
        "{task}"
    );
}

/// The panics of this that were caught and logged.
fn caught(events: &Events, what: &str) -> Vec<String> {
    let all = events
        .with_message("a panic was caught")
        .into_iter()
        .filter(|entry| entry.field("what") == Some(what));
    all.filter_map(|entry| entry.field("panic").map(str::to_owned))
        .collect()
}

// Tasks that fail.

#[tokio::test]
async fn errors_and_panics_are_told_under_the_task_s_name_and_stop_nothing_else() {
    fn broken() -> Result<(), io::Error> {
        Err(io::Error::other("broken"))
    }
    fn text() {
        panic!("a text")
    }
    fn string() {
        panic_any(format!("a {}", "string"))
    }
    fn number() {
        panic_any(7)
    }
    fn bomb() {
        panic_any(Bomb("the first"))
    }
    fn bombs() {
        panic_any(Bombs)
    }
    let (events, _guard) = Events::record();
    let (server, recorder) = serve(Supervisor::builder(), |tasks| {
        tasks.add(Task::new(async { broken() }).named("error"));
        tasks.add(Task::blocking(broken).named("error, blocking"));
        let panics: [(&str, fn()); 5] = [
            ("text", text),
            ("string", string),
            ("number", number),
            ("bomb", bomb),
            ("bombs", bombs),
        ];
        for (name, panics) in panics {
            tasks.add(Task::new(async move { panics() }).named(name));
            tasks.add(Task::blocking(panics).named(format!("{name}, blocking")));
            tasks
                .add(Task::with_context(async move |_| panics()).named(format!("{name}, context")));
        }
        tasks.add(Task::new(async {}).named("well"));
        tasks.add(Task::blocking(|| {}).named("well, blocking"));
    })
    .await;
    visit(&server).await;

    let no_text = "a panic without a message";
    let mut expected = vec![
        "ended well succeeded".to_owned(),
        "ended well, blocking succeeded".to_owned(),
    ];
    for name in ["error", "error, blocking"] {
        expected.push(format!("ended {name} failed: broken"));
        logged(&events, name, "broken");
    }
    let panics = [
        ("text", "a text"),
        ("string", "a string"),
        ("number", no_text),
        ("bomb", no_text),
        ("bombs", no_text),
    ];
    for (name, message) in panics {
        for name in [
            name.to_owned(),
            format!("{name}, blocking"),
            format!("{name}, context"),
        ] {
            expected.push(format!("ended {name} panicked: {message}"));
            logged(&events, &name, message);
        }
    }
    expected.sort();
    assert_eq!(ended(&recorder), expected);
    let stats = server.supervisor.stats();
    assert_eq!(
        (stats.failed, stats.panicked, stats.succeeded, stats.added()),
        (2, 15, 3, 20),
        "{stats:?}"
    );
    assert_eq!(recorder.lines_of("done").len(), 2);
}

#[tokio::test]
async fn a_function_that_panics_before_its_future_is_a_task_that_panics() {
    let (events, _guard) = Events::record();
    let (server, recorder) = serve(Supervisor::builder(), |tasks| {
        tasks.add(
            Task::with_context(|_| -> std::future::Ready<()> { panic!("no future") })
                .named("early"),
        );
    })
    .await;
    visit(&server).await;
    assert_eq!(ended(&recorder), ["ended early panicked: no future"]);
    logged(&events, "early", "no future");
}

#[tokio::test]
async fn a_task_without_a_name_is_found_by_its_path() {
    for level in [LevelFilter::TRACE, LevelFilter::WARN] {
        let (events, _guard) = Events::up_to(level);
        let (server, recorder) = serve(Supervisor::builder(), |tasks| {
            tasks.add(async { Err::<(), _>("broken") });
        })
        .await;
        visit(&server).await;
        assert_eq!(ended(&recorder), ["ended - failed: broken"]);
        // The span of the task has the path, or the event has it if there is no span.
        let has_path = |entry: &Entry| match entry {
            Entry::New { name, .. } => {
                *name == "background_task" && entry.field("path") == Some("/")
            }
            _ => {
                entry.message() == Some("a background task failed")
                    && entry.field("path") == Some("/")
            }
        };
        assert_eq!(
            events.all().iter().filter(|entry| has_path(entry)).count(),
            1,
            "{level}: {events:?}"
        );
    }
}

// Conditions that panic.

#[tokio::test]
async fn a_condition_that_panics_is_its_task_s_and_the_task_does_not_start() {
    for order in [Order::Concurrent, Order::Sequential] {
        let (events, _guard) = Events::record();
        let (server, recorder) = serve(Supervisor::builder().order(order), |tasks| {
            let undecided = || When::matches(|_| panic!("undecided"));
            tasks.add(Task::new(async {}).named("one").when(undecided()));
            tasks.add(Task::blocking(|| {}).named("two").when(undecided()));
            tasks.add(Task::new(async {}).named("three"));
        })
        .await;
        visit(&server).await;
        assert_eq!(
            ended(&recorder),
            [
                "ended one panicked: undecided",
                "ended three succeeded",
                "ended two panicked: undecided"
            ]
        );
        assert_eq!(
            recorder.lines_of("started"),
            ["started three", "started next"]
        );
        assert_eq!(
            recorder.lines_of("done")[0],
            "done / succeeded=1,panicked=2"
        );
        logged(&events, "one", "undecided");
        logged(&events, "two", "undecided");
        let stats = server.supervisor.stats();
        assert_eq!(
            (stats.panicked, stats.succeeded, stats.added()),
            (2, 2, 4),
            "{stats:?}"
        );
    }
}

#[tokio::test]
async fn a_condition_that_panics_is_a_failure_to_a_sequence_that_stops_at_one() {
    let (server, recorder) = serve(Supervisor::builder().order(Order::FailFast), |tasks| {
        tasks.add(
            Task::new(async {})
                .named("one")
                .when(When::matches(|_| panic!("undecided"))),
        );
        tasks.add(Task::new(async {}).named("two"));
    })
    .await;
    visit(&server).await;
    assert_eq!(
        ended(&recorder),
        ["ended one panicked: undecided", "ended two skipped"]
    );
}

// Observers that panic.

/// Panics in one method, or in all.
#[derive(Clone, Copy)]
struct Panicking(&'static str);

impl Panicking {
    const METHODS: [&str; 5] = [
        "on_response_end",
        "on_task_start",
        "on_task_end",
        "on_request_done",
        "on_shutdown",
    ];

    fn call(self, method: &str) {
        assert!(
            self.0 != method && self.0 != "all",
            "an observer's {method}"
        );
    }
}

impl Observer for Panicking {
    fn on_response_end(&self, _: &ResponseEnd) {
        self.call("on_response_end");
    }

    fn on_task_start(&self, _: &TaskInfo) {
        self.call("on_task_start");
    }

    fn on_task_end(&self, _: &TaskReport) {
        self.call("on_task_end");
    }

    fn on_request_done(&self, _: &RequestReport) {
        self.call("on_request_done");
    }

    fn on_shutdown(&self, _: &ShutdownReport) {
        self.call("on_shutdown");
    }
}

#[tokio::test]
async fn an_observer_that_panics_disturbs_neither_tasks_nor_responses_nor_other_observers() {
    for method in Panicking::METHODS.into_iter().chain(["all"]) {
        let (events, _guard) = Events::record();
        let builder = Supervisor::builder()
            .order(Order::Sequential)
            .observer(Panicking(method));
        let (server, recorder) = serve(builder, |tasks| {
            tasks.add(Task::new(async {}).named("one"));
            tasks.add(Task::blocking(|| Err::<(), _>("broken")).named("two"));
        })
        .await;
        visit(&server).await;
        let report = soon(server.supervisor.shutdown(Duration::from_secs(1))).await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(
            server.get("/").await,
            (StatusCode::OK, "first".to_owned()),
            "its tasks are refused"
        );
        assert_eq!(
            recorder.lines(),
            [
                "response GET / Complete",
                "started one",
                "ended one succeeded",
                "started two",
                "ended two failed: broken",
                "done / succeeded=1,failed=1",
                "response GET /next Complete",
                "started next",
                "ended next succeeded",
                "done /next succeeded=1",
                "shutdown 0 0 0",
                "response GET / Complete",
            ]
        );
        let stats = server.supervisor.stats();
        assert_eq!(
            (stats.succeeded, stats.failed, stats.refused, stats.added()),
            (2, 1, 2, 3),
            "{stats:?}"
        );
        for (one, times) in Panicking::METHODS.into_iter().zip([3, 3, 3, 2, 1]) {
            let panics = caught(&events, "an observer")
                .iter()
                .filter(|text| text.contains(one))
                .count();
            assert_eq!(
                panics,
                if method == one || method == "all" {
                    times
                } else {
                    0
                },
                "{method}: {one}"
            );
        }
    }
}

#[tokio::test]
async fn an_observer_that_panics_while_a_body_is_dropped_stops_neither_the_release_nor_the_server()
{
    let recorder = Recorder::default();
    let builder = Supervisor::builder()
        .observer(Panicking("on_response_end"))
        .observer(recorder.clone());
    let server = Server::with(builder.build(), |_, course| {
        Response::new(Script::new([Step::data("abc"), Step::Hang]).seen_by(course.expect_body()))
    })
    .await;
    let mut client = Raw::connect(server.address).await;
    client.get("/").await;
    client.until("abc").await;
    client.reset();
    assert_eq!(server.witness.next().await.cell(), "Interrupted, 3 B");
    soon(server.supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("response"),
        ["response GET / Interrupted"]
    );
    assert_eq!(recorder.lines_of("done"), ["done / succeeded=1"]);

    let mut client = Raw::connect(server.address).await;
    client.get("/again").await;
    client.until("abc").await;
    assert_eq!(
        server.supervisor.open_responses(),
        1,
        "the first was let out"
    );
}

/// Were the second panic to leave the drop, the process would be aborted, and this test with it.
#[tokio::test]
async fn an_observer_that_panics_while_another_panic_unwinds_stops_neither_the_release_nor_the_server()
 {
    let (events, _guard) = Events::record();
    let recorder = Recorder::default();
    let builder = Supervisor::builder()
        .observer(Panicking("all"))
        .observer(recorder.clone());
    let server = Server::with(builder.build(), |_, course| {
        Response::new(Script::new([Step::data("abc"), Step::Panic]).seen_by(course.expect_body()))
    })
    .await;
    for _ in 0..2 {
        let mut client = Raw::connect(server.address).await;
        client.get("/").await;
        assert_eq!(server.witness.next().await.cell(), "Panicked, 3 B");
        soon(server.supervisor.idle()).await;
    }
    assert_eq!(
        recorder.lines_of("response"),
        ["response GET / Panicked"; 2]
    );
    assert_eq!(recorder.lines_of("done"), ["done / succeeded=1"; 2]);
    assert_eq!(
        caught(&events, "an observer").len(),
        8,
        "four methods, two requests"
    );
    assert_eq!(server.supervisor.open_responses(), 0);
}

// Captured values that panic when they are dropped.

/// How many panics of dropped values were logged.
fn bangs(events: &Events) -> usize {
    let all = events.with_message("a panic was caught");
    assert!(
        all.iter().all(|entry| entry.field("panic") == Some("bang")),
        "{all:?}"
    );
    all.len()
}

#[tokio::test]
async fn a_captured_value_that_panics_in_its_task_is_the_task_s_panic() {
    let (events, _guard) = Events::record();
    let (server, recorder) = serve(Supervisor::builder().order(Order::Sequential), |tasks| {
        let (one, two) = (Bomb("bang"), Bomb("bang"));
        tasks.add(Task::new(async move { drop(one) }).named("one"));
        tasks.add(Task::blocking(move || drop(two)).named("two"));
        tasks.add(Task::new(async {}).named("well"));
    })
    .await;
    visit(&server).await;
    assert_eq!(
        ended(&recorder),
        [
            "ended one panicked: bang",
            "ended two panicked: bang",
            "ended well succeeded"
        ]
    );
    assert_eq!(bangs(&events), 0, "they are outcomes");
}

/// Adds a task whose values panic when they are dropped, and one after it. The first must have this
/// outcome.
async fn with_bomb(
    bomb: impl Fn() -> Task + Clone + Send + Sync + 'static,
    times: usize,
    outcome: &str,
) {
    for order in [Order::Concurrent, Order::Sequential] {
        let (events, _guard) = Events::record();
        let bomb = bomb.clone();
        let (server, recorder) = serve(Supervisor::builder().order(order), move |tasks| {
            tasks.add(bomb().named("bomb"));
            tasks.add(Task::new(async {}).named("well"));
        })
        .await;
        visit(&server).await;
        assert_eq!(
            ended(&recorder),
            [
                format!("ended bomb {outcome}"),
                "ended well succeeded".to_owned()
            ],
            "{order:?}"
        );
        assert_eq!(bangs(&events), times, "{order:?}");
        let stats = server.supervisor.stats();
        assert_eq!(
            (stats.added(), stats.pending()),
            (3, 0),
            "{order:?}: {stats:?}"
        );
        assert_eq!(recorder.lines_of("done").len(), 2, "{order:?}");
    }
}

/// A condition that holds a value.
fn holding(holds: bool, value: Bomb) -> When {
    When::matches(move |_| {
        let _held = &value;
        holds
    })
}

#[tokio::test]
async fn a_captured_value_that_panics_after_its_task_has_ended() {
    with_bomb(|| Task::new(Holds::ready(Bomb("bang"))), 1, "succeeded").await;
    with_bomb(
        || Task::with_context(|_| Holds::ready(Bomb("bang"))),
        1,
        "succeeded",
    )
    .await;
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_has_timed_out() {
    let soon = Duration::from_millis(1);
    with_bomb(
        move || Task::new(Holds::pending(Bomb("bang"))).timeout(soon),
        1,
        "timed out",
    )
    .await;
    with_bomb(
        move || Task::with_context(|_| Holds::pending(Bomb("bang"))).timeout(soon),
        1,
        "timed out",
    )
    .await;
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_is_skipped() {
    let never = || When::matches(|_| false);
    with_bomb(
        move || Task::new(Holds::ready(Bomb("bang"))).when(never()),
        1,
        "skipped",
    )
    .await;
    with_bomb(
        move || {
            let bomb = Bomb("bang");
            Task::blocking(move || drop(bomb)).when(never())
        },
        1,
        "skipped",
    )
    .await;
}

#[tokio::test]
async fn a_captured_value_that_panics_when_a_failure_skips_its_task() {
    let (events, _guard) = Events::record();
    let (server, recorder) = serve(Supervisor::builder().order(Order::FailFast), |tasks| {
        tasks.add(Task::new(async { Err::<(), _>("broken") }).named("one"));
        tasks.add(Task::new(Holds::ready(Bomb("bang"))).named("bomb"));
        tasks.add(Task::new(async {}).named("three"));
    })
    .await;
    visit(&server).await;
    assert_eq!(
        ended(&recorder),
        [
            "ended bomb skipped",
            "ended one failed: broken",
            "ended three skipped"
        ]
    );
    assert_eq!(bangs(&events), 1);
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_is_taken_back_by_the_handler() {
    let (events, _guard) = Events::record();
    let (server, recorder) = serve(Supervisor::builder(), |tasks| {
        tasks.add(Task::new(Holds::ready(Bomb("bang"))).named("bomb"));
        tasks.add(
            Task::new(Holds::ready(Bomb("bang")))
                .named("bomb")
                .when(holding(true, Bomb("bang"))),
        );
        tasks.add(Task::new(async {}).named("well"));
        assert_eq!(tasks.remove("bomb"), 2);
    })
    .await;
    visit(&server).await;
    assert_eq!(
        ended(&recorder),
        [
            "ended bomb removed",
            "ended bomb removed",
            "ended well succeeded"
        ]
    );
    assert_eq!(bangs(&events), 3);
    assert_eq!(server.supervisor.stats().removed, 2);
}

/// Takes a task back, or shuts down, while it waits behind another: for its turn, or for a place.
async fn behind(
    builder: SupervisorBuilder,
    end: impl AsyncFnOnce(&Supervisor, BackgroundTasks, Held),
) -> Recorder {
    let (events, _guard) = Events::record();
    let (held, kept) = (Held::new(), Arc::new(Mutex::new(None)));
    let (first, keep) = (held.clone(), Arc::clone(&kept));
    let (server, recorder) = serve(builder, move |tasks| {
        tasks.add(first.task("first"));
        tasks.add(Task::new(Holds::ready(Bomb("bang"))).named("bomb"));
        tasks.add(Task::new(async {}).named("well"));
        *keep.lock().expect("nothing panics with it") = Some(tasks.clone());
    })
    .await;
    assert_eq!(server.get("/").await.0, StatusCode::OK);
    assert_eq!(held.started().await, "first");
    let tasks = kept
        .lock()
        .expect("nothing panics with it")
        .take()
        .expect("the handler kept it");
    end(&server.supervisor, tasks, held).await;
    soon(server.supervisor.idle()).await;
    assert_eq!(bangs(&events), 1);
    recorder
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_is_taken_back_while_it_waits() {
    for builder in [
        Supervisor::builder().order(Order::Sequential),
        Supervisor::builder().max_concurrent(1),
    ] {
        let recorder = behind(builder, async |_, tasks, held| {
            assert_eq!(tasks.remove("bomb"), 1);
            held.let_go(1);
        })
        .await;
        assert_eq!(recorder.lines_of("done"), ["done / succeeded=2,removed=1"]);
    }
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_is_cancelled_while_it_runs() {
    let (events, _guard) = Events::record();
    let builder = Supervisor::builder().abort_after(Duration::from_millis(1));
    let (server, recorder) = serve(builder, |tasks| {
        tasks.add(Task::new(Holds::pending(Bomb("bang"))).named("bomb"));
        tasks.add(Task::new(Holds::pending(Bomb("bang"))).named("bomb"));
    })
    .await;
    server.get("/").await;
    while recorder.lines_of("started").len() < 2 {
        tokio::task::yield_now().await;
    }
    let report = soon(server.supervisor.shutdown(Duration::ZERO)).await;
    assert_eq!(report.abandoned().len(), 2, "{report:?}");
    soon(server.supervisor.idle()).await;
    assert_eq!(recorder.lines_of("done"), ["done / aborted=2"]);
    assert_eq!(recorder.lines_of("shutdown"), ["shutdown 0 0 2"]);
    assert_eq!(bangs(&events), 2);
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_is_cancelled_while_it_waits() {
    for order in [Order::Sequential, Order::Concurrent] {
        let builder = Supervisor::builder()
            .order(order)
            .max_concurrent(1)
            .abort_after(Duration::from_millis(1));
        let recorder = behind(builder, async |supervisor, _, _| {
            let report = soon(supervisor.shutdown(Duration::ZERO)).await;
            assert_eq!(report.abandoned().len(), 3, "{report:?}");
        })
        .await;
        assert_eq!(recorder.lines_of("done"), ["done / aborted=3"]);
    }
}

#[tokio::test]
async fn a_captured_value_that_panics_in_a_condition() {
    with_bomb(
        || Task::new(async {}).when(holding(true, Bomb("bang"))),
        1,
        "succeeded",
    )
    .await;
    with_bomb(
        || Task::blocking(|| {}).when(holding(true, Bomb("bang"))),
        1,
        "succeeded",
    )
    .await;
    with_bomb(
        || Task::new(async {}).when(holding(false, Bomb("bang"))),
        1,
        "skipped",
    )
    .await;
}

/// Two panics of one drop abort the process, but these values have nothing to do with each other.
#[tokio::test]
async fn a_captured_value_and_one_of_the_condition_that_both_panic() {
    with_bomb(
        || Task::new(Holds::ready(Bomb("bang"))).when(holding(true, Bomb("bang"))),
        2,
        "succeeded",
    )
    .await;
    with_bomb(
        || Task::new(Holds::ready(Bomb("bang"))).when(holding(false, Bomb("bang"))),
        2,
        "skipped",
    )
    .await;
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_registry_is_dropped() {
    let (events, _guard) = Events::record();
    let tasks = BackgroundTasks::for_test();
    let supervisor = tasks.supervisor().clone();
    tasks.add(
        Task::new(Holds::ready(Bomb("bang")))
            .named("bomb")
            .when(holding(true, Bomb("bang"))),
    );
    tasks.add(async {});
    drop(tasks);
    let stats = supervisor.stats();
    assert_eq!((stats.aborted, stats.added()), (2, 2), "{stats:?}");
    assert_eq!(bangs(&events), 2);
}

#[tokio::test]
async fn a_captured_value_that_panics_when_its_task_is_refused() {
    let (events, _guard) = Events::record();
    let (server, recorder) = serve(Supervisor::builder(), |tasks| {
        tasks.add(
            Task::new(Holds::ready(Bomb("bang")))
                .named("bomb")
                .when(holding(true, Bomb("bang"))),
        );
    })
    .await;
    soon(server.supervisor.shutdown(Duration::ZERO)).await;
    assert_eq!(
        server.get("/").await,
        (StatusCode::OK, "first".to_owned()),
        "the handler's `add` does not panic"
    );
    assert_eq!(
        recorder.lines_of("ended"),
        [""; 0],
        "a refused task has no outcome"
    );
    assert_eq!(server.supervisor.stats().refused, 1);
    assert_eq!(bangs(&events), 2);
}

// Errors that panic.

/// An error that panics when it is shown, or when it is dropped.
#[derive(Debug)]
struct Panics {
    shown: bool,
}

impl fmt::Display for Panics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!self.shown, "bang");
        f.write_str("broken")
    }
}

impl std::error::Error for Panics {}

impl Drop for Panics {
    fn drop(&mut self) {
        assert!(self.shown, "bang");
    }
}

/// Counts what the other observers are told, and looks at no error.
#[derive(Clone, Default)]
struct Labels(Arc<Mutex<Vec<&'static str>>>);

impl Observer for Labels {
    fn on_task_end(&self, report: &TaskReport) {
        self.0
            .lock()
            .expect("no event panics")
            .push(report.outcome().label());
    }
}

#[tokio::test]
async fn an_error_that_panics_when_it_is_shown_or_dropped() {
    for shown in [true, false] {
        for order in [Order::Concurrent, Order::Sequential] {
            for observed in [true, false] {
                let (events, _guard) = Events::record();
                let labels = Labels::default();
                let mut builder = Supervisor::builder().order(order);
                if observed {
                    builder = builder.observer(labels.clone());
                }
                let supervisor = builder.build();
                let router = Router::new().route(
                    "/",
                    get(async move |tasks: BackgroundTasks| {
                        tasks.add(Task::new(async move { Err(Panics { shown }) }).named("one"));
                        tasks.add(Task::blocking(move || Err(Panics { shown })).named("two"));
                        tasks.add(Task::new(async {}).named("well"));
                    }),
                );
                let server = Server::router(&supervisor, router).await;
                assert_eq!(server.get("/").await.0, StatusCode::OK);
                soon(supervisor.idle()).await;
                let stats = supervisor.stats();
                assert_eq!(
                    (stats.failed, stats.succeeded, stats.added()),
                    (2, 1, 3),
                    "{stats:?}"
                );
                if observed {
                    let mut labels = labels.0.lock().expect("no event panics").clone();
                    labels.sort_unstable();
                    assert_eq!(labels, ["failed", "failed", "succeeded"]);
                }
                for task in ["one", "two"] {
                    logged(
                        &events,
                        task,
                        if shown {
                            "an error whose message panicked: bang"
                        } else {
                            "broken"
                        },
                    );
                }
                assert_eq!(
                    bangs(&events),
                    if shown { 0 } else { 2 },
                    "{order:?}, {observed}"
                );
            }
        }
    }
}
