//! A subscriber that gets the warning about an untracked connection may use the tasks of the
//! request, and gets a path that is cut.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer as _, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, StartOn, Supervisor};
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt};

use crate::common::PATIENCE;

/// Asks for the names of the tasks whenever there is an event, and notes the length of the path.
#[derive(Clone, Default)]
struct Curious {
    tasks: Arc<Mutex<Option<BackgroundTasks>>>,
    paths: Arc<Mutex<Vec<usize>>>,
}

impl<S: Subscriber> Layer<S> for Curious {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let tasks = self.tasks.lock().unwrap().clone();
        drop(tasks.map(|tasks| tasks.names()));
        event.record(&mut PathLength(&self.paths));
    }
}

struct PathLength<'a>(&'a Mutex<Vec<usize>>);

impl Visit for PathLength<'_> {
    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "path" {
            self.0.lock().unwrap().push(value.len());
        }
    }
}

#[test]
fn a_subscriber_uses_the_tasks_and_sees_a_short_path() {
    let (sender, receiver) = mpsc::channel();
    // A thread of the test, because a deadlock would hold it for ever.
    thread::spawn(move || {
        let curious = Curious::default();
        let subscriber = tracing_subscriber::registry().with(curious.clone());
        tracing::subscriber::with_default(subscriber, || {
            let supervisor = Supervisor::builder()
                .start_on(StartOn::LastByteSent)
                .build();
            let service = service_fn(|request: Request<()>| {
                let tasks = request.background_tasks().expect("the layer is there");
                *curious.tasks.lock().unwrap() = Some(tasks);
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
            });
            let service = BackgroundLayer::with_supervisor(supervisor).layer(service);
            let request = Request::get(format!("/{}", "a".repeat(5_000)));
            let request = request.body(()).expect("a request");
            drop(service.oneshot(request).now_or_never());
        });
        let paths = curious.paths.lock().unwrap().clone();
        sender.send(paths).expect("the test waits");
    });
    let paths = receiver.recv_timeout(PATIENCE).expect("nothing deadlocks");
    assert_eq!(paths, [1024]);
}
