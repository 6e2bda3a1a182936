//! Each task is a tokio task. It runs beside the other tasks of its request from its first poll,
//! blocks none of them, and has an id.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{Arc, Barrier, Mutex, mpsc},
};

use tokio::{sync::oneshot, task::yield_now};
use tower_background::{BackgroundTasks, Supervisor};

use crate::common::{Call, alone, answered, soon, workers};

/// Runs a request with as many tasks as workers, all of which meet at a barrier in their first
/// poll.
fn meet(count: usize) {
    workers(count).block_on(async {
        let supervisor = Supervisor::new();
        let call = Call::new(&supervisor, "/");
        let barrier = Arc::new(Barrier::new(count));
        for _ in 0..count {
            let barrier = barrier.clone();
            call.tasks.add(async move {
                barrier.wait();
            });
        }
        call.finish().await;
        soon(supervisor.idle()).await;
        assert_eq!(supervisor.stats().succeeded, count as u64);
    });
}

#[test]
fn two_tasks_meet_at_a_barrier() {
    alone!(two_tasks_meet_at_a_barrier, || meet(2));
}

#[test]
fn four_tasks_meet_at_a_barrier() {
    alone!(four_tasks_meet_at_a_barrier, || meet(4));
}

#[test]
fn the_first_and_the_last_of_many_tasks_meet_at_a_barrier() {
    alone!(
        the_first_and_the_last_of_many_tasks_meet_at_a_barrier,
        || {
            workers(2).block_on(async {
                let supervisor = Supervisor::new();
                let call = Call::new(&supervisor, "/");
                let barrier = Arc::new(Barrier::new(2));
                for task in 0..100 {
                    let barrier = barrier.clone();
                    call.tasks.add(async move {
                        if task == 0 || task == 99 {
                            barrier.wait();
                        }
                    });
                }
                call.finish().await;
                soon(supervisor.idle()).await;
                assert_eq!(supervisor.stats().succeeded, 100);
            });
        }
    );
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that computes until a quick future has started, the quick future, and the events of the
/// first one.
struct Pair {
    first: Work,
    quick: Work,
    computes: oneshot::Receiver<()>,
    ended: oneshot::Receiver<()>,
}

impl Pair {
    fn new() -> Self {
        let (quick_started, waiting) = mpsc::channel();
        let (computing, computes) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let first = Box::pin(async move {
            // Nobody need listen.
            let _ = computing.send(());
            // Holds its worker, as a computation does.
            waiting
                .recv()
                .expect("the quick task is not dropped unpolled");
            let _ = ending.send(());
        });
        let quick = Box::pin(async move { quick_started.send(()).expect("the first task waits") });
        Self {
            first,
            quick,
            computes,
            ended,
        }
    }
}

/// Starts both by `start`, one right after the other.
async fn start_both(start: impl Fn(Work)) {
    let Pair {
        first,
        quick,
        ended,
        ..
    } = Pair::new();
    start(first);
    start(quick);
    soon(ended).await.expect("the first task ends");
}

/// Starts the quick task when the other task computes. A worker must not call this: the first task
/// would wake the caller on the worker that it blocks.
async fn start_behind(start: impl Fn(Work)) {
    let Pair {
        first,
        quick,
        computes,
        ended,
    } = Pair::new();
    start(first);
    soon(computes).await.expect("the first task starts");
    start(quick);
    soon(ended).await.expect("the first task ends");
}

fn add(tasks: &BackgroundTasks, work: Work) {
    tasks.add(work);
}

/// The control: tokio starts the quick task while the other one computes.
#[test]
fn a_spawned_task_starts_behind_a_computing_one() {
    alone!(a_spawned_task_starts_behind_a_computing_one, || {
        let runtime = workers(2);
        let tracker = tokio_util::task::TaskTracker::new();
        let spawning = tracker.clone();
        runtime.block_on(async {
            start_both(|work| drop(tracker.spawn(work))).await;
            start_behind(|work| drop(tracker.spawn(work))).await;
            let worker =
                tokio::spawn(async move { start_both(|work| drop(spawning.spawn(work))).await });
            soon(worker).await.expect("it does not panic");
            tracker.close();
            soon(tracker.wait()).await;
        });
    });
}

#[test]
fn a_late_task_starts_behind_a_computing_one() {
    alone!(a_late_task_starts_behind_a_computing_one, || {
        workers(2).block_on(async {
            let supervisor = Supervisor::new();
            let tasks = answered(&supervisor, "/").await;
            start_both(|work| add(&tasks, work)).await;
            start_behind(|work| add(&tasks, work)).await;
            soon(supervisor.idle()).await;
            let worker = tokio::spawn(async move { start_both(|work| add(&tasks, work)).await });
            soon(worker).await.expect("it does not panic");
            soon(supervisor.idle()).await;
            assert_eq!(supervisor.stats().succeeded, 6);
        });
    });
}

#[test]
fn a_deferred_task_starts_behind_a_computing_one() {
    alone!(a_deferred_task_starts_behind_a_computing_one, || {
        workers(2).block_on(async {
            let supervisor = Supervisor::new();
            let call = Call::new(&supervisor, "/");
            let Pair { first, quick, .. } = Pair::new();
            call.tasks.add(first);
            call.tasks.add(quick);
            call.finish().await;
            soon(supervisor.idle()).await;
            assert_eq!(supervisor.stats().succeeded, 2);
        });
    });
}

/// Adds tasks that note their tokio ids at several times.
fn add_identified(tasks: &BackgroundTasks, ids: &Arc<Mutex<Vec<[tokio::task::Id; 3]>>>) {
    for _ in 0..8 {
        let ids = ids.clone();
        tasks.add(async move {
            let first = tokio::task::id();
            yield_now().await;
            let second = tokio::task::id();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            ids.lock().unwrap().push([first, second, tokio::task::id()]);
        });
    }
}

#[tokio::test]
async fn a_task_keeps_its_id_and_shares_it_with_no_other() {
    let supervisor = Supervisor::new();
    let ids = Arc::default();
    for path in ["/first", "/second"] {
        let call = Call::new(&supervisor, path);
        let tasks = call.tasks.clone();
        add_identified(&tasks, &ids);
        call.finish().await;
        add_identified(&tasks, &ids);
        soon(supervisor.idle()).await;
    }
    let ids = ids.lock().unwrap();
    assert_eq!(ids.len(), 32);
    for [first, second, third] in &*ids {
        assert!(
            first == second && second == third,
            "the id of a task changed: {first}, {second}, {third}"
        );
    }
    let different: BTreeSet<_> = ids.iter().map(|[first, ..]| first.to_string()).collect();
    assert_eq!(different.len(), ids.len(), "tasks share an id");
}

#[test]
fn block_in_place_blocks_no_other_task() {
    alone!(block_in_place_blocks_no_other_task, || {
        workers(2).block_on(async {
            let supervisor = Supervisor::new();
            let call = Call::new(&supervisor, "/");
            let (ran, waiting) = mpsc::channel();
            call.tasks.add(async move {
                tokio::task::block_in_place(|| {
                    waiting
                        .recv()
                        .expect("the other task is not dropped unpolled");
                });
            });
            call.tasks
                .add(async move { ran.send(()).expect("the first task waits") });
            call.finish().await;
            soon(supervisor.idle()).await;
            assert_eq!(supervisor.stats().succeeded, 2);
        });
    });
}
