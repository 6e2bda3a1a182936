//! That what runs the tasks of one response runs those of the next on its thread, and is never waited for in vain: not when its
//! runtime is gone, nor when its thread is.

#[path = "support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use support::{soon, until};
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::Notify,
    task::{self, JoinSet},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Observer, Order, ResponseBody, Supervisor};

/// Answers a request with this handler.
async fn open(supervisor: &Supervisor, handler: impl FnOnce(BackgroundTasks)) -> ResponseBody<Full<Bytes>> {
    let mut handler = Some(handler);
    let service = service_fn(|request: Request<()>| {
        let tasks = request.background_tasks().expect("the layer is there");
        handler.take().expect("one request")(tasks);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello"))))
    });
    let Ok(response) = BackgroundLayer::with(supervisor.clone()).layer(service).oneshot(Request::new(())).await;
    response.into_body()
}

/// The same, and reads the answer to its end.
async fn answer(supervisor: &Supervisor, handler: impl FnOnce(BackgroundTasks)) {
    open(supervisor, handler).await.collect().await.expect("a whole body");
}

/// The same, and waits until the tasks are over and what ran them is.
async fn call(supervisor: &Supervisor, handler: impl FnOnce(BackgroundTasks)) {
    answer(supervisor, handler).await;
    soon(supervisor.idle()).await;
    task::yield_now().await;
}

fn current_thread() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// How many tokio tasks there are.
fn alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn one_tokio_task_runs_the_tasks_of_responses_that_follow_each_other() {
    for order in [Order::Concurrent, Order::Sequential, Order::FailFast] {
        let supervisor = Supervisor::builder().order(order).build();
        let ran = Arc::new(Mutex::new(Vec::new()));
        for request in 0..20 {
            call(&supervisor, |tasks| {
                for nth in 0..3 {
                    let ran = Arc::clone(&ran);
                    tasks.add(async move { ran.lock().unwrap().push((request, nth, task::id())) });
                }
            })
            .await;
        }
        let ran = ran.lock().unwrap();
        assert!(
            ran.iter()
                .map(|(request, nth, _)| (*request, *nth))
                .eq((0..20).flat_map(|request| (0..3).map(move |nth| (request, nth))))
        );
        assert!(ran.iter().all(|(_, _, id)| *id == ran[0].2), "{order:?}: {ran:?}");
    }
    assert_eq!(alive(), 1, "what is left waits for more");
}

#[tokio::test]
async fn a_task_that_went_on_leaves_what_ran_it_to_the_next_response() {
    let supervisor = Supervisor::new();
    let ids = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..3 {
        let ids = Arc::clone(&ids);
        call(&supervisor, |tasks| {
            tasks.add(async move {
                task::yield_now().await;
                ids.lock().unwrap().push(task::id());
            });
        })
        .await;
    }
    let ids = ids.lock().unwrap();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn responses_that_end_while_tasks_run_have_their_own_and_one_is_kept() {
    let supervisor = Supervisor::new();
    let (started, go_on) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    for nth in 1..=5 {
        let (started, go_on) = (Arc::clone(&started), Arc::clone(&go_on));
        answer(&supervisor, |tasks| {
            let waits = Arc::clone(&go_on).notified_owned();
            let running = Arc::clone(&started);
            tasks.add(async move {
                running.lock().unwrap().push(task::id());
                waits.await;
            });
        })
        .await;
        until(async || started.lock().unwrap().len() == nth).await;
    }
    assert_eq!(alive(), 5);
    go_on.notify_waiters();
    soon(supervisor.idle()).await;
    until(async || alive() == 1).await;
    assert_eq!(supervisor.stats().succeeded, 5);
}

#[test]
fn tasks_run_on_the_runtime_of_their_request_where_a_thread_serves_several() {
    let supervisor = Supervisor::new();
    let (first, second) = (current_thread(), current_thread());
    let ran = Arc::new(Mutex::new(Vec::new()));
    let serve = |runtime: &Runtime| {
        let ran = Arc::clone(&ran);
        let task = async move { ran.lock().unwrap().push((Handle::current().id(), task::id())) };
        runtime.block_on(call(&supervisor, |tasks| assert!(tasks.add(task))));
    };
    let runtimes = [&first, &first, &second, &first, &second, &second];
    runtimes.into_iter().for_each(serve);
    let (on, by): (Vec<_>, Vec<_>) = ran.lock().unwrap().drain(..).unzip();
    assert_eq!(on, runtimes.map(|runtime| runtime.handle().id()));
    assert!(by[0] == by[1] && by[4] == by[5], "the one that served last is kept: {by:?}");
    drop(second);
    serve(&first);
    assert_eq!(ran.lock().unwrap()[0].0, first.handle().id());
    assert_eq!(supervisor.stats().succeeded, 7);
}

#[test]
fn the_runtime_that_runs_tasks_counts_where_another_is_entered() {
    let (first, second) = (current_thread(), current_thread());
    let elsewhere = Supervisor::builder().runtime(second.handle().clone()).build();
    second.block_on(async {
        let _entered = first.enter();
        call(&elsewhere, |tasks| assert!(tasks.add(async {}))).await;
    });
    let supervisor = Supervisor::new();
    let ran = Arc::new(Mutex::new(None));
    let on = Arc::clone(&ran);
    first.block_on(call(&supervisor, |tasks| {
        tasks.add(async move { *on.lock().unwrap() = Some(Handle::current().id()) });
    }));
    assert_eq!(*ran.lock().unwrap(), Some(first.handle().id()));
}

#[test]
fn what_was_given_to_a_runtime_that_goes_down_is_cancelled() {
    let supervisor = Supervisor::new();
    let runtime = current_thread();
    runtime.block_on(async {
        call(&supervisor, |tasks| assert!(tasks.add(async {}))).await;
        // Nothing runs after this.
        answer(&supervisor, |tasks| assert!(tasks.add(async {}))).await;
        assert_eq!(alive(), 1, "it was given to what had run the first");
    });
    assert_eq!((supervisor.stats().waiting, supervisor.stats().succeeded), (1, 1));
    drop(runtime);
    assert_eq!((supervisor.stats().waiting, supervisor.stats().cancelled), (0, 1));
}

#[test]
fn what_ends_after_its_runtime_is_cancelled() {
    let supervisor = Supervisor::new();
    let runtime = current_thread();
    let body = runtime.block_on(async {
        call(&supervisor, |tasks| assert!(tasks.add(async {}))).await;
        open(&supervisor, |tasks| assert!(tasks.add(async {}))).await
    });
    drop(runtime);
    drop(body);
    assert_eq!((supervisor.stats().pending(), supervisor.stats().cancelled, supervisor.stats().succeeded), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_threads_each_keeps_one_at_most() {
    let supervisor = Supervisor::new();
    let ids = Arc::new(Mutex::new(BTreeSet::new()));
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        let (supervisor, ids) = (supervisor.clone(), Arc::clone(&ids));
        clients.spawn(async move {
            for _ in 0..500 {
                let ids = Arc::clone(&ids);
                let task = async move {
                    ids.lock().unwrap().insert(task::id().to_string());
                };
                answer(&supervisor, |tasks| assert!(tasks.add(task))).await;
                task::yield_now().await;
            }
        });
    }
    soon(clients.join_all()).await;
    soon(supervisor.idle()).await;
    assert_eq!((supervisor.stats().succeeded, supervisor.stats().added()), (1_000, 1_000));
    assert!(ids.lock().unwrap().len() < 1_000, "some were given to what had run others");
    until(async || alive() <= 2).await;
}

#[test]
fn what_is_kept_keeps_neither_the_runtime_nor_the_supervisor() {
    struct Held(#[expect(dead_code, reason = "it goes with its supervisor")] Arc<()>);
    impl Observer for Held {}
    let (in_runtime, in_supervisor) = (Arc::new(()), Arc::new(()));
    let held = Arc::clone(&in_runtime);
    let park = move || drop(Arc::clone(&held));
    let runtime = runtime::Builder::new_current_thread().enable_all().on_thread_park(park).build().expect("a runtime");
    let supervisor = Supervisor::builder().observer(Held(Arc::clone(&in_supervisor))).build();
    runtime.block_on(call(&supervisor, |tasks| assert!(tasks.add(async {}))));
    drop(supervisor);
    assert_eq!(Arc::strong_count(&in_supervisor), 1, "while the runtime is there");
    drop(runtime);
    assert_eq!(Arc::strong_count(&in_runtime), 1);
}

#[test]
fn what_a_thread_has_kept_ends_with_the_thread() {
    let runtime = current_thread();
    let runtime = thread::spawn(move || {
        let supervisor = Supervisor::new();
        runtime.block_on(call(&supervisor, |tasks| assert!(tasks.add(async {}))));
        assert_eq!(runtime.metrics().num_alive_tasks(), 1);
        runtime
    });
    runtime.join().expect("no panic").block_on(until(async || alive() == 0));
}
