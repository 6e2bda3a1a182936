//! A task that waits for a permit is removed while the permit is held by a blocking task that has timed out.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use futures_util::future::poll_immediate;
use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tower_background::{BackgroundTasks, Supervisor, Task};

use crate::{
    alone::{alone, one_thread, workers},
    api::{Watch, blocking, deferred, queued, removed},
    common::{Call, answered, settle, soon, until},
};

/// A value that notes its drop.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

struct Scene {
    supervisor: Supervisor,
    tasks: BackgroundTasks,
    watch: Watch,
    /// The blocking task ends when this is dropped.
    end_first: mpsc::Sender<()>,
    second_dropped: Arc<AtomicBool>,
}

impl Scene {
    /// The first task has timed out and holds the only permit, for which the second one waits.
    async fn new() -> Self {
        let watch = Watch::default();
        let supervisor = Supervisor::builder()
            .max_blocking(1)
            .observer(watch.clone())
            .build();
        let tasks = answered(&supervisor, "/").await;
        let (end_first, waiting) = mpsc::channel::<()>();
        let first = blocking(move || {
            let _ = waiting.recv();
        });
        tasks.add(first.named("first").timeout(Duration::from_millis(1)));
        until(async || supervisor.stats().timed_out == 1 && watch.has_ended("first")).await;
        let second_dropped = Arc::new(AtomicBool::new(false));
        let held = Dropped(second_dropped.clone());
        tasks.add(blocking(move || drop(held)).named("second"));
        settle().await;
        assert!(
            !second_dropped.load(SeqCst) && queued(&supervisor.stats()) == 1,
            "the second task waits"
        );
        Self {
            supervisor,
            tasks,
            watch,
            end_first,
            second_dropped,
        }
    }

    fn assert_second_is_over(&self) {
        assert!(
            self.second_dropped.load(SeqCst),
            "the removed task should have been dropped"
        );
        assert!(
            self.watch.has_ended("second"),
            "the observer should know of the removed task"
        );
        let stats = self.supervisor.stats();
        assert_eq!(
            (stats.pending(), removed(&stats), stats.added()),
            (0, 1, 2),
            "{stats:?}"
        );
        assert_eq!((deferred(&stats), queued(&stats), stats.running), (0, 0, 0));
    }
}

#[tokio::test]
async fn idle_waits_for_the_drop_of_a_removed_task() {
    let scene = Scene::new().await;
    assert_eq!(scene.tasks.remove("second"), 1);
    // Whether this ends before the first task does is not the question here.
    if poll_immediate(scene.supervisor.idle()).await.is_some() {
        scene.assert_second_is_over();
    }
    settle().await;
    if poll_immediate(scene.supervisor.idle()).await.is_some() {
        scene.assert_second_is_over();
    }
    let Scene {
        supervisor,
        tasks,
        watch,
        end_first,
        second_dropped,
    } = scene;
    drop(end_first);
    soon(supervisor.idle()).await;
    let (end_first, _) = mpsc::channel();
    Scene {
        supervisor,
        tasks,
        watch,
        end_first,
        second_dropped,
    }
    .assert_second_is_over();
}

#[tokio::test]
async fn a_clean_shutdown_waits_for_the_drop_of_a_removed_task() {
    let scene = Scene::new().await;
    assert_eq!(scene.tasks.remove("second"), 1);
    let supervisor = scene.supervisor.clone();
    let shutdown = tokio::spawn(async move { supervisor.shutdown(crate::common::PATIENCE).await });
    settle().await;
    if shutdown.is_finished() {
        scene.assert_second_is_over();
    }
    let Scene {
        supervisor,
        tasks,
        watch,
        end_first,
        second_dropped,
    } = scene;
    drop(end_first);
    assert!(soon(shutdown).await.expect("it does not panic").is_clean());
    let (end_first, _) = mpsc::channel();
    Scene {
        supervisor,
        tasks,
        watch,
        end_first,
        second_dropped,
    }
    .assert_second_is_over();
}

/// The least value that each gauge had.
#[derive(Debug, Default)]
struct Gauges(Mutex<Vec<(String, Arc<Least>)>>);

#[derive(Debug, Default)]
struct Least {
    value: AtomicI64,
    least: AtomicI64,
}

impl Least {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "gauges of this crate count tasks"
    )]
    fn change(&self, by: f64) {
        let value = self.value.fetch_add(by as i64, SeqCst) + by as i64;
        self.least.fetch_min(value, SeqCst);
    }
}

impl GaugeFn for Least {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "gauges of this crate count tasks"
    )]
    fn set(&self, value: f64) {
        self.value.store(value as i64, SeqCst);
        self.least.fetch_min(value as i64, SeqCst);
    }
}

impl Recorder for &'static Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut gauges = self.0.lock().expect("no gauge panics");
        let name = key.to_string();
        let found = gauges
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, least)| least.clone());
        let least = found.unwrap_or_else(|| {
            let least = Arc::new(Least::default());
            gauges.push((name, least.clone()));
            least
        });
        Gauge::from_arc(least)
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Adds tasks before and after the end of responses, and removes some that are deferred or queued.
async fn add_and_remove(supervisor: &Supervisor) {
    for _ in 0..200 {
        let call = Call::new(supervisor, "/");
        let tasks = call.tasks.clone();
        let add = || {
            for _ in 0..5 {
                tasks.add(Task::new(tokio::task::yield_now()).named("runs"));
                tasks.add(blocking(|| ()).named("blocks"));
            }
        };
        add();
        tasks.remove("blocks");
        add();
        call.finish().await;
        add();
        tasks.remove("blocks");
        tasks.remove("runs");
    }
}

#[test]
fn no_gauge_is_ever_below_zero() {
    alone!(no_gauge_is_ever_below_zero, || {
        static GAUGES: OnceLock<Gauges> = OnceLock::new();
        let gauges = GAUGES.get_or_init(Gauges::default);
        metrics::set_global_recorder(gauges).expect("there is none in this process");
        one_thread().block_on(async {
            let scene = Scene::new().await;
            assert_eq!(scene.tasks.remove("second"), 1);
            settle().await;
            let Scene {
                supervisor,
                end_first,
                ..
            } = scene;
            drop(end_first);
            soon(supervisor.idle()).await;
        });
        let runtime = workers(2);
        let supervisor = Supervisor::builder()
            .max_concurrent(1)
            .max_blocking(1)
            .build();
        let (polled, done) = (supervisor.clone(), Arc::new(AtomicBool::new(false)));
        let ended = done.clone();
        let polling = std::thread::spawn(move || {
            while !ended.load(SeqCst) {
                let stats = polled.stats();
                // A count below zero would wrap.
                let counts = [deferred(&stats), queued(&stats), stats.running];
                assert!(counts.iter().all(|count| *count <= 10_000), "{stats:?}");
            }
        });
        runtime.block_on(async {
            add_and_remove(&supervisor).await;
            soon(supervisor.idle()).await;
        });
        done.store(true, SeqCst);
        polling.join().expect("no statistic is below zero");
        // Some gauges may change after `idle` has returned.
        drop(runtime);
        let gauges = gauges.0.lock().expect("no gauge panics");
        assert!(gauges.len() >= 3, "{gauges:?}");
        for (name, gauge) in &*gauges {
            assert_eq!(
                (gauge.least.load(SeqCst), gauge.value.load(SeqCst)),
                (0, 0),
                "least and last value of {name}"
            );
        }
    });
}
