//! That a request which is served with what an earlier one has left, its memory, sees nothing of that request, and that what is
//! left holds nothing of it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Observer, Order, Release, ResponseEnd, Supervisor, Task,
};

/// Answers a request to this path, reads the answer to its end, and waits for the tasks.
async fn call(supervisor: &Supervisor, uri: impl TryInto<Uri, Error: std::fmt::Debug>, handler: impl FnOnce(BackgroundTasks)) {
    let mut request = Request::new(());
    *request.uri_mut() = uri.try_into().expect("a path");
    let mut handler = Some(handler);
    let service = service_fn(|request: Request<()>| {
        let tasks = request.background_tasks().expect("the layer is there");
        handler.take().expect("one request")(tasks);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello"))))
    });
    let Ok(response) = BackgroundLayer::with(supervisor.clone()).layer(service).oneshot(request).await;
    response.into_body().collect().await.expect("a whole body");
    supervisor.idle().await;
    // The runner may be on its way to its end.
    tokio::task::yield_now().await;
}

/// Where tasks note which they are, and the path and the bytes of their response.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn task(&self, name: &'static str) -> Task {
        let notes = self.clone();
        Task::with_context(async move |cx| {
            let end = cx.end();
            notes.0.lock().unwrap().push(format!("{name} of {}, {:?}, {} B", end.path(), end.kind(), end.bytes()));
            if name == "fails" { Err("as it should") } else { Ok(()) }
        })
        .named(name)
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[tokio::test]
async fn a_request_sees_nothing_of_the_one_before() {
    let (supervisor, notes) = (Supervisor::new(), Notes::default());
    for path in ["/first", "/second"] {
        call(&supervisor, path, |tasks| {
            assert!(tasks.names().is_empty());
            tasks.order(Order::FailFast);
            tasks.release(Release::Sent);
            tasks.add(notes.task("fails"));
            tasks.add(notes.task("is skipped"));
        })
        .await;
        assert_eq!(notes.taken(), [format!("fails of {path}, Complete, 5 B")]);

        call(&supervisor, "/plain", |tasks| {
            assert!(tasks.names().is_empty(), "a task of the request before is there");
            tasks.add(notes.task("fails"));
            tasks.add(notes.task("runs"));
        })
        .await;
        let expected = ["fails of /plain, Complete, 5 B", "runs of /plain, Complete, 5 B"];
        assert_eq!(notes.taken(), expected, "the order of the request before is not this one's");

        call(&supervisor, "/nothing", |tasks| assert!(tasks.names().is_empty())).await;
    }
}

#[tokio::test]
async fn a_registry_that_somebody_has_serves_nobody_else() {
    let (supervisor, notes) = (Supervisor::new(), Notes::default());
    for used in [false, true] {
        let mut kept = None;
        call(&supervisor, "/kept", |tasks| {
            if used {
                tasks.add(notes.task("first"));
            }
            kept = Some(tasks);
        })
        .await;
        call(&supervisor, "/next", |_| {}).await;
        kept.expect("it was called").add(notes.task("late"));
        supervisor.idle().await;
        assert_eq!(notes.taken().last().map(String::as_str), Some("late of /kept, Complete, 5 B"));
    }
}

/// Is told of ends, and keeps the last of them.
#[derive(Default)]
struct Last(Mutex<Option<ResponseEnd>>);

impl Observer for Last {
    fn response_ended(&self, end: &ResponseEnd) {
        *self.0.lock().unwrap() = Some(end.clone());
    }
}

#[tokio::test]
async fn an_end_that_somebody_keeps_stays_what_it_was() {
    let last = Arc::new(Last::default());
    let supervisor = Supervisor::builder().observer(last.clone()).build();
    call(&supervisor, "/kept", |tasks| assert!(tasks.add(async {}))).await;
    let kept = last.0.lock().unwrap().take().expect("it has ended");
    call(&supervisor, "/next", |tasks| assert!(tasks.add(async {}))).await;
    assert_eq!((kept.path(), kept.bytes()), ("/kept", 5));
}

#[tokio::test]
async fn what_is_left_holds_nothing_of_the_request() {
    for used in [false, true] {
        let captured = Arc::new(());
        let released = Arc::downgrade(&captured);
        let path = Arc::new("/a/path".to_owned());
        let (held, bytes) = (Arc::downgrade(&path), Bytes::from_owner(Path(path)));
        let supervisor = Supervisor::new();
        call(&supervisor, Uri::from_maybe_shared(bytes).expect("a path"), |tasks| {
            if used {
                tasks.add(async move { drop(captured) });
            }
        })
        .await;
        assert!(held.upgrade().is_none(), "the path is held, and so is what it was read from");
        assert!(released.upgrade().is_none(), "what a task captured is held");
    }
    let observer = Arc::new(Quiet);
    let told = Arc::downgrade(&observer);
    let supervisor = Supervisor::builder().observer(observer).build();
    call(&supervisor, "/", |tasks| assert!(tasks.add(async {}))).await;
    drop(supervisor);
    assert!(told.upgrade().is_none(), "the supervisor is held");
}

/// An observer that holds nothing.
struct Quiet;

impl Observer for Quiet {}

/// The owner of a path's bytes.
struct Path(Arc<String>);

impl AsRef<[u8]> for Path {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
