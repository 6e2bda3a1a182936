//! That what runs the tasks of one response runs those of the next on its thread, and is never waited for in vain: not when its
//! runtime is gone, nor when its thread is.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::Notify,
    task,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Observer, Order, Supervisor};

/// Answers a request with this handler, and reads the answer to its end.
async fn answer(supervisor: &Supervisor, handler: impl FnOnce(BackgroundTasks)) {
    let mut handler = Some(handler);
    let service = service_fn(|request: Request<()>| {
        let tasks = request.background_tasks().expect("the layer is there");
        handler.take().expect("one request")(tasks);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello"))))
    });
    let Ok(response) = BackgroundLayer::with(supervisor.clone()).layer(service).oneshot(Request::new(())).await;
    response.into_body().collect().await.expect("a whole body");
}

/// The same, and waits until the tasks are over and what ran them is.
async fn call(supervisor: &Supervisor, handler: impl FnOnce(BackgroundTasks)) {
    answer(supervisor, handler).await;
    supervisor.idle().await;
    task::yield_now().await;
}

fn current_thread() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Waits until there are so many tokio tasks.
async fn until_alive(tasks: usize) {
    let alive = || Handle::current().metrics().num_alive_tasks();
    for _ in 0..10_000 {
        if alive() == tasks {
            return;
        }
        task::yield_now().await;
    }
    panic!("there are {} tokio tasks", alive());
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
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 1, "what is left waits for more");
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
        while started.lock().unwrap().len() < nth {
            task::yield_now().await;
        }
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 5);
    go_on.notify_waiters();
    supervisor.idle().await;
    until_alive(1).await;
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
fn what_was_given_to_a_runtime_that_goes_down_is_cancelled() {
    let supervisor = Supervisor::new();
    let runtime = current_thread();
    runtime.block_on(async {
        call(&supervisor, |tasks| assert!(tasks.add(async {}))).await;
        // Nothing runs after this.
        answer(&supervisor, |tasks| assert!(tasks.add(async {}))).await;
    });
    assert_eq!((supervisor.stats().waiting, supervisor.stats().succeeded), (1, 1));
    drop(runtime);
    assert_eq!((supervisor.stats().waiting, supervisor.stats().cancelled), (0, 1));
}

#[test]
fn what_is_kept_keeps_neither_the_runtime_nor_the_supervisor() {
    struct Held(#[expect(dead_code, reason = "it goes with its supervisor")] Arc<()>);
    impl Observer for Held {}
    let (in_runtime, in_supervisor) = (Arc::new(()), Arc::new(()));
    let held = Arc::clone(&in_runtime);
    let runtime =
        runtime::Builder::new_current_thread().on_thread_park(move || drop(Arc::clone(&held))).build().expect("a runtime");
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
    runtime.join().expect("no panic").block_on(until_alive(0));
}
