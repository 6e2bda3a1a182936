//! No gauge of the metrics is ever below zero, and each gauge is zero after all tasks.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tower_background::{Supervisor, Task};

use crate::{
    common::{Call, alone, one_thread, settle, soon, workers},
    removed::TimedOut,
};

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
                tasks.add(Task::blocking(|| ()).named("blocks"));
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
            let mut tasks = TimedOut::new().await;
            tasks.remove_second();
            settle().await;
            tasks.end_first();
            soon(tasks.supervisor.idle()).await;
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
                let counts = [stats.deferred, stats.queued, stats.running];
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
