//! `running()`: what is told of the tasks that wait and run, on a real server whose tasks are held.

#![cfg(feature = "axum")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use axum::{
    Router,
    routing::{delete, get},
};
use http::Method;
use tower_background::{BackgroundTasks, Order, RunningTask, Supervisor, SupervisorBuilder, Task};

use support::{Held, Server, soon};

async fn serve(builder: SupervisorBuilder) -> (Server, Held, Supervisor) {
    let (held, supervisor) = (Held::new(), builder.build());
    let (first, second) = (held.clone(), held.clone());
    let router = Router::new()
        .route("/orders/{id}", delete(async move |tasks: BackgroundTasks| tasks.add(first.task("restock")).to_string()))
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

fn lines(tasks: &[RunningTask]) -> Vec<String> {
    let line =
        |task: &RunningTask| format!("{} {} {} {:?}", task.name().unwrap_or("-"), task.method(), task.path(), task.state());
    tasks.iter().map(line).collect()
}

async fn delete_order(server: &Server) {
    let url = format!("http://{}/orders/7?reason=returned", server.address);
    let response = soon(reqwest::Client::new().request(Method::DELETE, url).send()).await.expect("it answers");
    assert_eq!(soon(response.text()).await.expect("a whole body"), "true");
}

/// Waits until these are told, in this order.
async fn told(supervisor: &Supervisor, expected: &[&str]) {
    soon(async {
        while lines(&supervisor.running()) != expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn waiting_and_running_tasks_are_told_with_their_request_the_oldest_first() {
    let (server, held, supervisor) = serve(Supervisor::builder().max_concurrent(1)).await;
    assert_eq!(lines(&supervisor.running()), [""; 0]);
    let begin = Instant::now();
    delete_order(&server).await;
    assert_eq!(held.started().await, "restock");
    server.get("/report?year=2024").await;
    assert_eq!(held.started().await, "render", "blocking tasks have places of their own");
    let all = [
        "restock DELETE /orders/7 Running",
        "render GET /report Running",
        "archive GET /report Waiting",
        "- GET /report Waiting",
    ];
    told(&supervisor, &all).await;
    let (once, again) = (supervisor.running(), supervisor.running());
    for (once, again) in once.iter().zip(&again) {
        assert!(once.age() <= again.age() && again.age() <= begin.elapsed(), "{once:?} {again:?}");
    }
    assert!(once.is_sorted_by(|one, next| one.age() >= next.age()), "{once:?}");

    held.let_go(1);
    held.let_go(1);
    assert_eq!(held.started().await, "archive");
    told(&supervisor, &["archive GET /report Running", "- GET /report Waiting"]).await;
    held.let_go(1);
    soon(supervisor.idle()).await;
    assert_eq!(lines(&supervisor.running()), [""; 0]);
}

#[tokio::test]
async fn tasks_that_wait_for_their_turn_are_told_and_those_of_an_open_response_are_not() {
    let (server, held, supervisor) = serve(Supervisor::builder().order(Order::Sequential)).await;
    let open = BackgroundTasks::detached(&supervisor);
    open.add(Task::new(async {}).named("collected"));
    server.get("/report").await;
    assert_eq!(held.started().await, "render");
    let expected = ["render GET /report Running", "archive GET /report Waiting", "- GET /report Waiting"];
    assert_eq!(lines(&supervisor.running()), expected);
    assert_eq!(supervisor.stats().collected, 1);
    held.let_go(2);
    drop(open);
    soon(supervisor.idle()).await;
}

#[tokio::test]
async fn a_task_that_was_taken_back_is_told_no_more() {
    let (held, kept, supervisor) = (Held::new(), Arc::new(Mutex::new(None)), Supervisor::builder().max_concurrent(1).build());
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
    told(&supervisor, &["one GET / Running", "two GET / Waiting", "three GET / Waiting"]).await;
    assert_eq!(held.started().await, "one");
    let tasks = kept.lock().expect("nothing panics with it").take().expect("the handler kept it");
    assert_eq!(tasks.remove("two"), 1);
    assert_eq!(lines(&supervisor.running()), ["one GET / Running", "three GET / Waiting"]);
    held.let_go(2);
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().succeeded, 2);
}
