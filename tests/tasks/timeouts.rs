//! Timeouts: what happens to a future and to a blocking function that run too long, and which of
//! several timeouts counts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use http::{Request, Response, StatusCode};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Order, Supervisor, SupervisorBuilder,
    Task, TaskContext,
};

use crate::common::{Events, Held, Recorder, Server, soon};

const SHORT: Duration = Duration::from_millis(1);
/// For a blocking function, to begin in: one that has not begun by then never does.
const ENOUGH: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(3600);

/// Tells its name when it is dropped.
struct Tells(&'static str, mpsc::UnboundedSender<&'static str>);

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

async fn serve(
    builder: SupervisorBuilder,
    leave: impl Fn(BackgroundTasks) + Clone + Send + Sync + 'static,
) -> (Server, Recorder, Supervisor) {
    let recorder = Recorder::default();
    let supervisor = builder.observer(recorder.clone()).build();
    let router = Router::new().route("/", get(async move |tasks: BackgroundTasks| leave(tasks)));
    (
        Server::router(&supervisor, router).await,
        recorder,
        supervisor,
    )
}

/// Waits until a task has ended.
async fn first_end(recorder: &Recorder) {
    soon(async {
        while recorder.lines_of("ended").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_future_that_runs_too_long_is_dropped_before_it_is_reported() {
    let (events, _guard) = Events::record();
    let (drops, mut dropped) = mpsc::unbounded_channel();
    let (server, recorder, supervisor) = serve(Supervisor::builder(), move |tasks| {
        for (name, context) in [("future", false), ("context", true)] {
            let captured = Tells(name, drops.clone());
            let hang = async move {
                let _captured = captured;
                std::future::pending::<()>().await;
            };
            let task = if context {
                Task::with_context(|_| hang)
            } else {
                Task::new(hang)
            };
            tasks.add(task.named(name).timeout(SHORT));
        }
        tasks.add(Task::new(async {}).named("well"));
    })
    .await;
    assert_eq!(server.get("/").await.0, StatusCode::OK);
    soon(supervisor.idle()).await;
    let mut both = [dropped.try_recv(), dropped.try_recv()];
    both.sort_by_key(|name| name.ok());
    assert_eq!(
        both,
        [Ok("context"), Ok("future")],
        "they were dropped before their end was counted"
    );
    assert_eq!(
        recorder.lines_of("done"),
        ["done / succeeded=1,timed_out=2"]
    );
    let stats = supervisor.stats();
    assert_eq!(
        (stats.timed_out, stats.succeeded, stats.added()),
        (2, 1, 3),
        "{stats:?}"
    );
    for name in ["future", "context"] {
        let errors = events
            .of_task(name)
            .into_iter()
            .filter(|entry| entry.message() == Some("a background task failed"));
        assert_eq!(errors.count(), 1, "{name}: {events:?}");
    }
}

#[tokio::test]
async fn a_blocking_function_that_runs_too_long_is_told_and_reported_while_it_still_runs() {
    let (told, mut tells) = mpsc::unbounded_channel();
    let (drops, mut dropped) = mpsc::unbounded_channel();
    let (server, recorder, supervisor) = serve(Supervisor::builder(), move |tasks| {
        let (told, captured, runtime) = (
            told.clone(),
            Tells("returned", drops.clone()),
            Handle::current(),
        );
        let task = Task::blocking_with_context(move |cx: TaskContext| -> Result<(), &str> {
            let _captured = captured;
            // The test answers only when the supervisor has reported.
            let (returns, returned) = oneshot::channel::<()>();
            runtime.block_on(cx.cancelled());
            told.send((cx.is_cancelled(), returns))
                .expect("the test is there");
            runtime.block_on(returned).expect("the test lets it return");
            panic!("nobody asks any more");
        });
        tasks.add(task.named("stubborn").timeout(ENOUGH));
    })
    .await;
    server.get("/").await;
    let (cancelled, returns) = soon(tells.recv()).await.expect("its context is cancelled");
    assert!(cancelled);
    soon(supervisor.idle()).await;
    assert_eq!(recorder.lines_of("ended"), ["ended stubborn timed out"]);
    assert_eq!(supervisor.stats().timed_out, 1);
    returns.send(()).expect("the function still runs");
    assert_eq!(soon(dropped.recv()).await, Some("returned"));
    assert_eq!(server.get("/none").await.0, StatusCode::NOT_FOUND);
    let stats = supervisor.stats();
    assert_eq!(
        (stats.timed_out, stats.added()),
        (1, 1),
        "what it comes to after that is not counted again: {stats:?}"
    );
}

#[tokio::test]
async fn the_timeout_of_one_blocking_function_cancels_no_other_context() {
    let go = Arc::new(Notify::new());
    let (asked, mut answers) = mpsc::unbounded_channel();
    let wait = Arc::clone(&go);
    let (server, recorder, supervisor) = serve(Supervisor::builder(), move |tasks| {
        let runtime = Handle::current();
        let waits = runtime.clone();
        tasks.add(
            Task::blocking_with_context(move |cx: TaskContext| runtime.block_on(cx.cancelled()))
                .named("slow")
                .timeout(SHORT),
        );
        let (asked, wait) = (asked.clone(), Arc::clone(&wait));
        let other = Task::blocking_with_context(move |cx: TaskContext| {
            waits.block_on(wait.notified());
            asked.send(cx.is_cancelled()).expect("the test is there");
        });
        tasks.add(other.named("other"));
    })
    .await;
    server.get("/").await;
    first_end(&recorder).await;
    go.notify_one();
    assert_eq!(soon(answers.recv()).await, Some(false));
    soon(supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("ended"),
        ["ended slow timed out", "ended other succeeded"]
    );
}

#[tokio::test]
async fn a_task_s_own_timeout_overrides_the_supervisor_s() {
    let held = Held::new();
    let holder = held.clone();
    let (server, recorder, supervisor) = serve(
        Supervisor::builder().task_timeout(Duration::from_millis(20)),
        move |tasks| {
            tasks.set_order(Order::Concurrent);
            tasks.add(holder.task("longer").timeout(LONG));
            tasks.add(holder.task("default"));
        },
    )
    .await;
    server.get("/").await;
    // The one with the longer timeout started no later, and is alive when the other's has passed.
    assert_eq!(
        [held.started().await, held.started().await],
        ["longer", "default"]
    );
    first_end(&recorder).await;
    assert_eq!(
        (recorder.lines_of("ended"), supervisor.stats().running),
        (vec!["ended default timed out".to_owned()], 1)
    );
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(
        recorder.lines_of("done"),
        ["done / succeeded=1,timed_out=1"]
    );

    let (server, recorder, supervisor) = serve(Supervisor::builder().task_timeout(LONG), |tasks| {
        tasks.add(
            Task::new(std::future::pending::<()>())
                .named("shorter")
                .timeout(SHORT),
        );
    })
    .await;
    server.get("/").await;
    soon(supervisor.idle()).await;
    assert_eq!(recorder.lines_of("done"), ["done / timed_out=1"]);
}

#[tokio::test]
async fn a_task_that_never_returns_ends_by_its_timeout() {
    let (server, recorder, supervisor) =
        serve(Supervisor::builder().task_timeout(ENOUGH), |tasks| {
            tasks.set_order(Order::Sequential);
            tasks.add(async {
                while std::future::ready(true).await {
                    tokio::task::yield_now().await;
                }
            });
            tasks.add(Task::blocking_with_context(
                |cx: TaskContext| -> Result<(), &str> {
                    loop {
                        assert!(!cx.is_cancelled(), "it never returns, but it panics");
                        std::thread::yield_now();
                    }
                },
            ));
        })
        .await;
    server.get("/").await;
    soon(supervisor.idle()).await;
    assert_eq!(recorder.lines_of("done"), ["done / timed_out=2"]);
}

/// On a paused clock, which tells exactly when each of them is ended.
#[tokio::test(start_paused = true)]
async fn a_timeout_is_kept_to_the_moment_and_counts_from_the_task_s_own_start() {
    let recorder = Recorder::default();
    let supervisor = Supervisor::builder()
        .task_timeout(Duration::from_secs(10))
        .order(Order::Sequential)
        .observer(recorder.clone())
        .build();
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service_fn(
        async |request: Request<()>| {
            let tasks = request.background_tasks().expect("the layer is there");
            let sleep = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
            tasks.add(Task::new(sleep(9)).named("in time"));
            tasks.add(Task::new(sleep(11)).named("late"));
            tasks.add(
                Task::new(sleep(20))
                    .named("own")
                    .timeout(Duration::from_secs(21)),
            );
            tasks.add(
                Task::new(sleep(60))
                    .named("own, late")
                    .timeout(Duration::from_secs(5)),
            );
            Ok::<_, Infallible>(Response::new(String::new()))
        },
    ));
    let begin = tokio::time::Instant::now();
    drop(service.oneshot(Request::new(())).await);
    supervisor.idle().await;
    assert_eq!(
        recorder.lines_of("ended"),
        [
            "ended in time succeeded",
            "ended late timed out",
            "ended own succeeded",
            "ended own, late timed out"
        ]
    );
    assert_eq!(begin.elapsed().as_secs(), 9 + 10 + 20 + 5);
}

#[test]
fn a_blocking_function_that_has_not_begun_at_its_timeout_never_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let held = Held::new();
        let (told, mut tells) = mpsc::unbounded_channel();
        let holder = held.clone();
        let (server, recorder, supervisor) = serve(Supervisor::builder(), move |tasks| {
            tasks.add(holder.blocking("first"));
            let captured = Tells("dropped", told.clone());
            tasks.add(
                Task::blocking(move || captured.1.send("begun"))
                    .named("second")
                    .timeout(SHORT),
            );
        })
        .await;
        server.get("/").await;
        assert_eq!(held.started().await, "first", "it has the only thread");
        first_end(&recorder).await;
        assert_eq!(recorder.lines_of("ended"), ["ended second timed out"]);
        held.let_go(1);
        soon(supervisor.idle()).await;
        assert_eq!(soon(tells.recv()).await, Some("dropped"));
        assert_eq!(
            recorder.lines_of("done"),
            ["done / succeeded=1,timed_out=1"]
        );
    });
}
