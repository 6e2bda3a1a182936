//! `tasks()` lists the tasks that have not ended.

use std::{
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Instant,
};

use axum::{
    Router,
    routing::{delete, get},
};
use http::Method;
use tower_background::{
    BackgroundTasks, Order, Supervisor, SupervisorBuilder, Task, report::TaskInfo,
};

use crate::common::{Call, Held, Server, soon};

async fn serve(builder: SupervisorBuilder) -> (Server, Held, Supervisor) {
    let (held, supervisor) = (Held::new(), builder.build());
    let (first, second) = (held.clone(), held.clone());
    let router = Router::new()
        .route(
            "/orders/{id}",
            delete(async move |tasks: BackgroundTasks| tasks.add(first.task("restock"))),
        )
        .route(
            "/report",
            get(async move |tasks: BackgroundTasks| {
                tasks.add(second.blocking("render"));
                tasks.add(second.task("archive"));
                tasks.add(Task::new(async {}));
            }),
        );
    (Server::router(&supervisor, router).await, held, supervisor)
}

fn lines(tasks: &[TaskInfo]) -> Vec<String> {
    let line = |task: &TaskInfo| {
        let (method, path) = (
            task.method().map_or("-", Method::as_str),
            task.path().unwrap_or("-"),
        );
        format!(
            "{} {method} {path} {:?}",
            task.name().unwrap_or("-"),
            task.state()
        )
    };
    tasks.iter().map(line).collect()
}

async fn delete_order(server: &Server) {
    let url = format!("http://{}/orders/7?reason=returned", server.address);
    let response = soon(reqwest::Client::new().request(Method::DELETE, url).send())
        .await
        .expect("it answers");
    assert_eq!(soon(response.text()).await.expect("a whole body"), "");
}

/// Waits until these are listed, in this order.
async fn listed(supervisor: &Supervisor, expected: &[&str]) {
    soon(async {
        while lines(&supervisor.tasks()) != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn queued_and_running_tasks_are_listed_with_their_request_the_oldest_first() {
    let (server, held, supervisor) = serve(Supervisor::builder().max_concurrent(1)).await;
    assert_eq!(lines(&supervisor.tasks()), [""; 0]);
    let begin = Instant::now();
    delete_order(&server).await;
    assert_eq!(held.started().await, "restock");
    server.get("/report?year=2024").await;
    assert_eq!(
        held.started().await,
        "render",
        "blocking tasks have separate permits"
    );
    let all = [
        "restock DELETE /orders/7 Running",
        "render GET /report Running",
        "archive GET /report Queued",
        "- GET /report Queued",
    ];
    listed(&supervisor, &all).await;
    let (once, again) = (supervisor.tasks(), supervisor.tasks());
    for (once, again) in once.iter().zip(&again) {
        assert!(
            once.age() <= again.age() && again.age() <= begin.elapsed(),
            "{once:?} {again:?}"
        );
    }
    assert!(
        once.is_sorted_by(|one, next| one.age() >= next.age()),
        "{once:?}"
    );

    held.let_go(1);
    held.let_go(1);
    assert_eq!(held.started().await, "archive");
    listed(
        &supervisor,
        &["archive GET /report Running", "- GET /report Queued"],
    )
    .await;
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(lines(&supervisor.tasks()), [""; 0]);
}

#[tokio::test]
async fn tasks_that_wait_for_their_turn_and_those_of_an_open_response_are_listed() {
    let (server, held, supervisor) = serve(Supervisor::builder().order(Order::Sequential)).await;
    let open = Call::new(&supervisor, "/open");
    open.tasks.add(Task::new(async {}).named("deferred"));
    server.get("/report").await;
    assert_eq!(held.started().await, "render");
    let expected = [
        "deferred GET /open Deferred",
        "render GET /report Running",
        "archive GET /report Queued",
        "- GET /report Queued",
    ];
    assert_eq!(lines(&supervisor.tasks()), expected);
    assert_eq!(supervisor.stats().deferred, 1);
    held.let_go(2);
    open.finish().await;
    soon(supervisor.idle()).await;
}

#[tokio::test]
async fn tasks_that_several_threads_have_added_are_listed_the_oldest_first() {
    let supervisor = Supervisor::new();
    let [one, two, three, four] = ["/1", "/2", "/3", "/4"].map(|path| Call::new(&supervisor, path));
    let add = |call: &Call| call.tasks.add(async {});
    let turns = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            add(&one);
            turns.wait();
            turns.wait();
            add(&four);
        });
        scope.spawn(|| {
            turns.wait();
            add(&two);
            add(&three);
            turns.wait();
        });
    });
    let listed: Vec<_> = supervisor
        .tasks()
        .iter()
        .map(|task| task.path().unwrap().to_owned())
        .collect();
    assert_eq!(listed, ["/1", "/2", "/3", "/4"]);
    for call in [one, two, three, four] {
        call.finish().await;
    }
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 4);
}

#[tokio::test]
async fn a_task_that_was_taken_back_is_not_listed() {
    let (held, kept, supervisor) = (
        Held::new(),
        Arc::new(Mutex::new(None)),
        Supervisor::builder().max_concurrent(1).build(),
    );
    let (holder, keep) = (held.clone(), Arc::clone(&kept));
    let router = Router::new().route(
        "/",
        get(async move |tasks: BackgroundTasks| {
            for name in ["one", "two", "three"] {
                tasks.add(holder.task(name));
            }
            *keep.lock().expect("nothing panics with it") = Some(tasks);
        }),
    );
    let server = Server::router(&supervisor, router).await;
    server.get("/").await;
    listed(
        &supervisor,
        &[
            "one GET / Running",
            "two GET / Queued",
            "three GET / Queued",
        ],
    )
    .await;
    assert_eq!(held.started().await, "one");
    let tasks = kept
        .lock()
        .expect("nothing panics with it")
        .take()
        .expect("the handler kept it");
    assert_eq!(tasks.remove("two"), 1);
    listed(&supervisor, &["one GET / Running", "three GET / Queued"]).await;
    held.let_go(2);
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 2);
}
