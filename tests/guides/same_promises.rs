//! The layer that the benchmarks compare the crate with keeps its promises.

#[path = "../../benches/same_promises/mod.rs"]
mod same_promises;

use std::{convert::Infallible, future::pending, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{sync::oneshot, task::yield_now, time::timeout};
use tower::{Service, service_fn};

use same_promises::{End, EndKind, SamePromises, Stats, Supervisor, Tasks};

const BOUND: Duration = Duration::from_secs(30);

/// Returns statistics with these counts. All other counts are zero.
macro_rules! stats {
    ($($name:ident: $count:expr),*) => {
        Stats { $($name: $count,)* ..Stats::default() }
    };
}

type Chunk = Result<Frame<Bytes>, &'static str>;

fn request() -> Request<()> {
    Request::get("/path?query").body(()).expect("a request")
}

/// Calls a service whose handler adds tasks with `add`.
async fn call(
    supervisor: &Supervisor,
    add: impl Fn(&Tasks),
) -> Response<impl http_body::Body<Data = Bytes, Error = Infallible>> {
    let service = service_fn(|request: Request<()>| {
        add(request.extensions().get().expect("the layer is there"));
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello")))) }
    });
    let Ok(response) = SamePromises::new(service, supervisor.clone())
        .call(request())
        .await;
    response
}

async fn idle(supervisor: &Supervisor) {
    timeout(BOUND, supervisor.idle())
        .await
        .expect("all tasks end");
}

#[tokio::test]
async fn a_task_is_listed_until_it_ends() {
    let supervisor = Supervisor::default();
    let (finish, finished) = oneshot::channel::<()>();
    let finished = std::sync::Mutex::new(Some(finished));
    let response = call(&supervisor, |tasks| {
        let finished = finished.lock().unwrap().take().unwrap();
        assert!(tasks.add("mail", async { finished.await.unwrap() }));
    })
    .await;
    let listed = supervisor.tasks();
    assert_eq!(
        (
            listed.len(),
            listed[0].name,
            &*listed[0].path,
            listed[0].running
        ),
        (1, "mail", "/path", false)
    );
    assert_eq!(supervisor.open_responses(), 1);
    assert_eq!(supervisor.stats(), stats!(added: 1, deferred: 1));

    drop(response);
    assert_eq!(supervisor.open_responses(), 0);
    assert_eq!(supervisor.stats(), stats!(added: 1, running: 1));
    let listed = supervisor.tasks();
    assert!(listed[0].running && listed[0].age < BOUND);

    finish.send(()).unwrap();
    idle(&supervisor).await;
    assert!(supervisor.tasks().is_empty());
    assert_eq!(supervisor.stats(), stats!(added: 1, succeeded: 1));
}

#[tokio::test]
async fn failures_and_panics_are_counted() {
    let supervisor = Supervisor::default();
    let response = call(&supervisor, |tasks| {
        tasks.add("fails", async { Err::<(), _>("no") });
        tasks.add("panics", async {
            assert!(
                Tasks::current().is_none(),
                "this panic is a part of the test"
            );
        });
        tasks.add("succeeds", async { Ok::<_, &str>(()) });
    })
    .await;
    drop(response);
    idle(&supervisor).await;
    assert_eq!(
        supervisor.stats(),
        stats!(added: 3, succeeded: 1, failed: 1, panicked: 1)
    );
}

#[tokio::test]
async fn a_shutdown_aborts_what_is_left() {
    let supervisor = Supervisor::default();
    let add = |tasks: &Tasks| assert!(tasks.add("waits", pending::<()>()));
    let open = call(&supervisor, add).await;
    drop(call(&supervisor, add).await);
    timeout(BOUND, supervisor.shutdown(Duration::ZERO))
        .await
        .expect("the shutdown ends");
    assert_eq!(
        supervisor.stats(),
        stats!(added: 2, deferred: 1, aborted: 1)
    );

    let late = call(&supervisor, |tasks| assert!(!tasks.add("late", async {}))).await;
    drop((open, late));
    idle(&supervisor).await;
    assert_eq!(supervisor.stats(), stats!(added: 2, aborted: 2));
}

#[test]
fn a_body_may_be_dropped_outside_of_a_runtime() {
    let supervisor = Supervisor::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let response = runtime.block_on(call(&supervisor, |tasks| {
        assert!(tasks.add("task", async {}));
    }));
    drop(response);
    assert_eq!(supervisor.stats(), stats!(added: 1, aborted: 1));
}

#[tokio::test]
async fn future_body_and_tasks_find_their_request() {
    let supervisor = Supervisor::default();
    let add = |name| {
        assert!(
            Tasks::current()
                .expect("this is code of a request")
                .add(name, async {})
        );
    };
    let service = service_fn(|_: Request<()>| async move {
        yield_now().await;
        add("of the handler");
        let frames = futures_util::stream::once(async move {
            add("of the body");
            Chunk::Ok(Frame::data(Bytes::from_static(b"hello")))
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(frames))))
    });
    let Ok(response) = SamePromises::new(service, supervisor.clone())
        .call(request())
        .await;
    assert!(Tasks::current().is_none());
    let body = response
        .into_body()
        .collect()
        .await
        .expect("the body is whole");
    assert_eq!(body.to_bytes(), "hello");
    idle(&supervisor).await;

    let response = call(&supervisor, |tasks| {
        tasks.add("outer", async {
            yield_now().await;
            assert!(Tasks::current().is_some_and(|tasks| tasks.add("inner", async {})));
        });
    })
    .await;
    drop(response);
    idle(&supervisor).await;
    assert_eq!(supervisor.stats(), stats!(added: 4, succeeded: 4));
}

/// Adds a task that reports the end of the response.
fn report_end(request: &Request<()>, report: impl FnOnce(End) + Send + 'static) {
    let tasks = request.extensions().get::<Tasks>();
    let tasks = tasks.expect("the layer is there");
    tasks.add("reports", async {
        report(Tasks::current().unwrap().response_end().unwrap());
    });
}

/// Returns how a response with these frames ended after this number of polls, and how many bytes
/// its body yielded.
async fn end(chunks: Vec<Chunk>, polls: usize) -> (EndKind, u64) {
    let supervisor = Supervisor::default();
    let (tell, told) = oneshot::channel();
    let (tell, chunks) = (
        std::sync::Mutex::new(Some(tell)),
        std::sync::Mutex::new(Some(chunks)),
    );
    let service = service_fn(|request: Request<()>| {
        let tell = tell.lock().unwrap().take().unwrap();
        report_end(&request, |end| tell.send(end).unwrap());
        let chunks = chunks.lock().unwrap().take().unwrap();
        async {
            Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(
                chunks,
            ))))
        }
    });
    let Ok(response) = SamePromises::new(service, supervisor.clone())
        .call(request())
        .await;
    let mut body = response.into_body();
    for _ in 0..polls {
        let _ = body.frame().await;
    }
    drop(body);
    let end = timeout(BOUND, told)
        .await
        .expect("the task runs")
        .expect("the task sends");
    let head = end.head.expect("there was a head");
    assert!(end.status == Some(http::StatusCode::OK) && end.started <= head && head <= end.ended);
    (end.kind, end.bytes)
}

#[tokio::test]
async fn the_end_of_a_response_is_known() {
    let data = || Chunk::Ok(Frame::data(Bytes::from_static(b"hello")));
    assert_eq!(end(vec![data(), data()], 3).await, (EndKind::Complete, 10));
    assert_eq!(
        end(vec![data(), data()], 1).await,
        (EndKind::Interrupted, 5)
    );
    assert_eq!(
        end(vec![data(), Err("broken")], 2).await,
        (EndKind::Error, 5)
    );
    assert_eq!(
        end(vec![data(), Ok(Frame::trailers(http::HeaderMap::new()))], 2).await,
        (EndKind::Complete, 5)
    );
}

#[tokio::test]
async fn a_service_that_fails_or_is_dropped_ends_the_response() {
    let supervisor = Supervisor::default();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(|request: Request<()>| {
        let tell = tell.clone();
        report_end(&request, move |end| tell.send(end).unwrap());
        async { Err::<Response<Full<Bytes>>, _>("broken") }
    });
    let mut service = SamePromises::new(service, supervisor.clone());
    assert!(service.call(request()).await.is_err());
    drop(service.call(request()));
    idle(&supervisor).await;
    let kinds = [told.recv().await.unwrap(), told.recv().await.unwrap()]
        .map(|end| (end.kind, end.status.is_none()));
    assert_eq!(
        kinds,
        [(EndKind::Error, true), (EndKind::Interrupted, true)]
    );
    assert_eq!(supervisor.open_responses(), 0);
}

#[test]
fn counts_agree_on_several_workers() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let supervisor = Supervisor::default();
    runtime.block_on(async {
        for _ in 0..500 {
            let response = call(&supervisor, |tasks| {
                (0..4).for_each(|_| assert!(tasks.add("task", async {})));
            })
            .await;
            drop(response);
        }
        idle(&supervisor).await;
    });
    assert_eq!(supervisor.stats(), stats!(added: 2000, succeeded: 2000));
}
