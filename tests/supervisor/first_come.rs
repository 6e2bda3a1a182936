//! `max_concurrent` serves first come, first served, by task: within a request and across requests.
//!
//! The semaphore of an older tokio does not queue a task that has used up its budget. So
//! `.ci/dependencies` also runs this file with the oldest tokio that the crate supports. For that
//! reason this file uses no helper of the other tests.

use std::{
    convert::Infallible,
    future::ready,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    task::yield_now,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_background::{BackgroundLayer, BackgroundTasks, BackgroundTasksExt, Supervisor};

/// The number of tasks is far beyond tokio's budget of 128 operations a poll.
const HALF: usize = 500;

async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), event)
        .await
        .expect("the event that the test waits for should come")
}

/// Makes a request whose handler uses the registry, to the end of its response.
async fn request(
    supervisor: &Supervisor,
    handler: impl FnOnce(&BackgroundTasks),
) -> BackgroundTasks {
    let (mut handler, mut registry) = (Some(handler), None);
    let service = service_fn(|request: Request<()>| {
        let tasks = request.background_tasks().expect("the layer is there");
        handler.take().expect("there is one request")(&tasks);
        registry = Some(tasks);
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
            "hello",
        ))))
    });
    let service = BackgroundLayer::with_supervisor(supervisor.clone()).layer(service);
    let Ok(response) = service.oneshot(Request::new(())).await;
    response
        .into_body()
        .collect()
        .await
        .expect("the body does not fail");
    registry.expect("the handler was called")
}

/// The tasks that started, by number.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<Vec<usize>>>);

impl Starts {
    fn add(&self, tasks: &BackgroundTasks, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            let starts = self.0.clone();
            tasks.add(async move {
                starts.lock().unwrap().push(number);
                yield_now().await;
            });
        }
    }

    /// Lets all tasks queue, releases the permit, and checks the order of both halves.
    async fn assert_in_order_after(&self, release: oneshot::Sender<()>, supervisor: &Supervisor) {
        settle().await;
        drop(release);
        self.assert_in_order(supervisor, 2 * HALF).await;
    }

    /// Waits for all tasks, and checks that they started in the order of their numbers.
    async fn assert_in_order(&self, supervisor: &Supervisor, count: usize) {
        soon(supervisor.idle()).await;
        let starts = self.0.lock().unwrap();
        let wrong = starts
            .iter()
            .enumerate()
            .find(|(place, number)| place != *number);
        assert_eq!(
            (wrong, starts.len()),
            (None, count),
            "(place, number) of the first wrong start, and all starts"
        );
    }
}

/// A supervisor of one permit, which a task holds until the sender is dropped.
async fn with_held_permit() -> (Supervisor, oneshot::Sender<()>) {
    let supervisor = Supervisor::builder().max_concurrent(1).build();
    let (release, released) = oneshot::channel::<()>();
    let (holds, held) = oneshot::channel();
    let holder = async move {
        holds.send(()).expect("the test waits");
        let _ = released.await;
    };
    let add_holder = |tasks: &BackgroundTasks| {
        tasks.add(holder);
    };
    request(&supervisor, add_holder).await;
    soon(held).await.expect("the task starts");
    (supervisor, release)
}

/// Lets everything that can run now run.
async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}

/// Uses up tokio's budget of the current task.
fn use_up_budget() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (0..1_000).for_each(|_| sender.send(()).expect("the receiver is here"));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000 {
        if pin!(receiver.recv()).poll(&mut cx).is_pending() {
            return;
        }
    }
    panic!("the budget of a tokio task has no end");
}

fn runtimes() -> [Runtime; 2] {
    let built = "a runtime can be built";
    [
        Builder::new_current_thread()
            .enable_all()
            .build()
            .expect(built),
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect(built),
    ]
}

/// Runs the test in a tokio task: what `block_on` polls has no budget that ends, on some runtimes.
fn on_each_runtime<Fut: Future<Output = ()> + Send + 'static>(test: impl Fn() -> Fut) {
    for runtime in runtimes() {
        runtime
            .block_on(runtime.spawn(test()))
            .expect("the test holds");
    }
}

#[test]
fn within_a_request() {
    on_each_runtime(|| async {
        let supervisor = Supervisor::builder().max_concurrent(1).build();
        let starts = Starts::default();
        request(&supervisor, |tasks| starts.add(tasks, 0..HALF)).await;
        starts.assert_in_order(&supervisor, HALF).await;
    });
}

#[test]
fn across_two_requests() {
    on_each_runtime(|| async {
        let (supervisor, release) = with_held_permit().await;
        let starts = Starts::default();
        request(&supervisor, |tasks| starts.add(tasks, 0..HALF)).await;
        settle().await;
        request(&supervisor, |tasks| starts.add(tasks, HALF..2 * HALF)).await;
        starts.assert_in_order_after(release, &supervisor).await;
    });
}

/// The first task uses up the budget of whoever polls it first, and holds the permit.
#[test]
fn behind_a_task_that_uses_up_the_budget() {
    on_each_runtime(|| async {
        let supervisor = Supervisor::builder().max_concurrent(1).build();
        let (release, released) = oneshot::channel::<()>();
        let starts = Starts::default();
        let handler = |tasks: &BackgroundTasks| {
            tasks.add(async {
                use_up_budget();
                let _ = released.await;
            });
            starts.add(tasks, 0..HALF);
        };
        request(&supervisor, handler).await;
        settle().await;
        request(&supervisor, |tasks| starts.add(tasks, HALF..2 * HALF)).await;
        starts.assert_in_order_after(release, &supervisor).await;
    });
}

#[test]
fn of_late_tasks_that_are_added_without_budget() {
    on_each_runtime(|| async {
        let (supervisor, release) = with_held_permit().await;
        let starts = Starts::default();
        let tasks = request(&supervisor, |_| ()).await;
        use_up_budget();
        starts.add(&tasks, 0..HALF);
        // The rest is added with a new budget.
        yield_now().await;
        starts.add(&tasks, HALF..2 * HALF);
        starts.assert_in_order_after(release, &supervisor).await;
    });
}

#[test]
fn of_late_tasks_of_two_requests_in_turn() {
    on_each_runtime(|| async {
        let (supervisor, release) = with_held_permit().await;
        let starts = Starts::default();
        let requests = [
            request(&supervisor, |_| ()).await,
            request(&supervisor, |_| ()).await,
        ];
        use_up_budget();
        for number in 0..2 * HALF {
            starts.add(&requests[number % 2], [number]);
            if number == HALF {
                yield_now().await;
            }
        }
        starts.assert_in_order_after(release, &supervisor).await;
    });
}
