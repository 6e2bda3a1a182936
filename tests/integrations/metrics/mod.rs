//! The feature `metrics`: the crate records what the documentation of `describe_metrics` lists, and
//! the gauges return to 0.

mod monitoring;

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use metrics::LocalRecorderGuard;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::runtime::Builder;
use tower_background::{Order, Supervisor, Task, When, describe_metrics};

use crate::common::{Call, answered, soon};

const SECOND: Duration = Duration::from_secs(1);

/// A metric: its name, its kind and the names of its labels.
type Metric = (String, String, Vec<String>);

/// The metrics in the documentation of `describe_metrics`, each with its unit and description.
fn documented() -> BTreeMap<Metric, (String, String)> {
    let source = include_str!("../../../src/util/metrics.rs");
    let rows = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("/// |"))
        .skip(2);
    let rows = rows.map(|row| {
        row.trim_end_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect::<Vec<_>>()
    });
    rows.map(|row| {
        let [name, kind, labels, unit, description] = &row[..] else {
            panic!("a row of five: {row:?}")
        };
        let labels = labels
            .split(", ")
            .filter(|label| !label.is_empty())
            .map(str::to_owned)
            .collect();
        (
            (name.clone(), kind.clone(), labels),
            (unit.clone(), description.clone()),
        )
    })
    .collect()
}

/// What a recorder received, by the name and the values of the labels. A snapshot resets
/// everything, gauges too.
#[derive(Debug, Default)]
struct Snapshot {
    metrics: BTreeMap<Metric, (String, String)>,
    counters: BTreeMap<String, u64>,
    gauges: BTreeMap<String, f64>,
    histograms: BTreeMap<String, Vec<f64>>,
}

impl Snapshot {
    fn of(snapshotter: &Snapshotter) -> Self {
        let mut all = Self::default();
        for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
            let (_, key) = key.into_parts();
            let kind = match &value {
                DebugValue::Counter(_) => "counter",
                DebugValue::Gauge(_) => "gauge",
                DebugValue::Histogram(_) => "histogram",
            };
            let labels = key.labels().map(|label| label.key().to_owned()).collect();
            let values: Vec<_> = key.labels().map(metrics::Label::value).collect();
            let name = format!(
                "{}({})",
                key.name().trim_start_matches("background_"),
                values.join(", ")
            );
            let unit = unit.map_or("", |unit| unit.as_str()).to_owned();
            let description =
                description.map_or_else(String::new, |description| description.to_string());
            all.metrics.insert(
                (key.name().to_owned(), kind.to_owned(), labels),
                (unit, description),
            );
            match value {
                DebugValue::Counter(value) => drop(all.counters.insert(name, value)),
                DebugValue::Gauge(value) => drop(all.gauges.insert(name, value.into_inner())),
                DebugValue::Histogram(values) => {
                    all.histograms
                        .insert(name, values.into_iter().map(f64::from).collect());
                }
            }
        }
        all
    }

    /// Returns how many tasks are deferred, queued and running.
    fn gauges(&self) -> [f64; 3] {
        ["deferred", "queued", "running"].map(|state| {
            self.gauges
                .get(&format!("tasks_{state}()"))
                .copied()
                .unwrap_or_default()
        })
    }

    /// How many tasks of this name ended so.
    fn ended(&self, task: &str, outcome: &str) -> u64 {
        self.counters
            .get(&format!("tasks_total({task}, {outcome})"))
            .copied()
            .unwrap_or_default()
    }

    /// The wait times and the run times of tasks of this name.
    fn times(&self, task: &str) -> [&[f64]; 2] {
        ["wait", "run"].map(|what| {
            self.histograms
                .get(&format!("task_{what}_seconds({task})"))
                .map_or(&[][..], |times| times)
        })
    }
}

fn panics() {
    panic!("as it should");
}

/// One task of each outcome and name, and one without a name.
async fn one_of_each() {
    let supervisor = Supervisor::new();
    let call = Call::new(&supervisor, "/");
    call.tasks.add(Task::new(async {}).named("succeeds"));
    call.tasks
        .add(Task::new(async { Err("as it should") }).named("fails"));
    call.tasks
        .add(Task::new(async { panics() }).named("panics"));
    call.tasks.add(
        Task::new(tokio::time::sleep(2 * SECOND))
            .timeout(SECOND)
            .named("times out"),
    );
    call.tasks.add(
        Task::new(async {})
            .when(When::matches(|_| false))
            .named("is skipped"),
    );
    call.tasks.add(Task::new(async {}).named("is taken back"));
    // A name that is made at run time.
    call.tasks
        .add(Task::new(std::future::pending::<()>()).named(format!("is cut {}", "off")));
    call.tasks.add(
        Task::new(std::future::pending::<()>())
            .shutdown_fallback(async {})
            .named("falls back"),
    );
    call.tasks.add(async {});
    assert_eq!(call.tasks.remove("is taken back"), 1);
    let tasks = call.tasks.clone();
    call.finish().await;
    supervisor.shutdown(5 * SECOND).await;
    tasks.add(Task::new(async {}).named("is refused"));
}

#[tokio::test(start_paused = true)]
async fn the_documentation_tells_what_is_recorded() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    one_of_each().await;
    let told = Snapshot::of(&snapshotter).metrics;
    assert_eq!(told, documented());
    assert_eq!(told.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn each_task_is_counted_once_under_its_name_and_outcome() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    one_of_each().await;
    let snapshot = Snapshot::of(&snapshotter);
    let expected = [
        ("succeeds", "succeeded", true),
        ("", "succeeded", true),
        ("fails", "failed", true),
        ("panics", "panicked", true),
        ("times out", "timed_out", true),
        ("is cut off", "aborted", true),
        ("is taken back", "removed", false),
        ("is skipped", "skipped", false),
        ("falls back", "fell_back", true),
        ("is refused", "refused", false),
    ];
    for (task, outcome, started) in expected {
        assert_eq!(snapshot.ended(task, outcome), 1, "{task}: {snapshot:#?}");
        assert_eq!(
            snapshot.times(task).map(<[f64]>::len),
            [usize::from(started); 2],
            "{task}: {snapshot:#?}"
        );
    }
    assert_eq!(
        snapshot.counters.values().sum::<u64>(),
        expected.len() as u64
    );
    assert!(
        snapshot
            .gauges()
            .iter()
            .all(|gauge| gauge.abs() < f64::EPSILON),
        "{snapshot:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_and_running_are_timed_apart() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let supervisor = Supervisor::builder().order(Order::Sequential).build();
    let call = Call::new(&supervisor, "/");
    call.tasks
        .add(Task::new(async { tokio::time::sleep(3 * SECOND).await }).named("first"));
    call.tasks
        .add(Task::new(async { tokio::time::sleep(5 * SECOND).await }).named("second"));
    // The time that the response takes is of neither.
    tokio::time::advance(100 * SECOND).await;
    call.finish().await;
    supervisor.idle().await;
    let snapshot = Snapshot::of(&snapshotter);
    for (task, seconds) in [("first", [0.0, 3.0]), ("second", [3.0, 5.0])] {
        for (times, seconds) in snapshot.times(task).into_iter().zip(seconds) {
            let [time] = times else {
                panic!("{snapshot:#?}")
            };
            assert!(
                (seconds..seconds + 0.5).contains(time),
                "{task}: {snapshot:#?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_gauges_tell_where_tasks_stand() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let supervisor = Supervisor::builder().max_concurrent(1).build();
    let over = answered(&supervisor, "/over").await;
    for _ in 0..3 {
        over.add(tokio::time::sleep(SECOND));
    }
    let open = Call::new(&supervisor, "/open");
    open.tasks.add(async {});
    // Meanwhile the first task runs, and the others wait for the permit.
    tokio::time::sleep(SECOND / 2).await;
    let stats = supervisor.stats();
    assert_eq!((stats.deferred, stats.queued, stats.running), (1, 2, 1));
    let before = Snapshot::of(&snapshotter).gauges();
    for (gauge, expected) in before.iter().zip([1.0, 2.0, 1.0]) {
        assert!((gauge - expected).abs() < f64::EPSILON, "{before:?}");
    }

    open.finish().await;
    supervisor.idle().await;
    // The recorder has begun again from 0.
    let after = Snapshot::of(&snapshotter).gauges();
    for (before, after) in before.iter().zip(&after) {
        assert!(
            (before + after).abs() < f64::EPSILON,
            "{before:?} {after:?}"
        );
    }
}

thread_local! {
    static RECORDING: RefCell<Option<LocalRecorderGuard<'static>>> = const { RefCell::new(None) };
}

/// A gauge can be a moment behind the statistics, but in the end it is right.
#[test]
fn the_gauges_return_to_zero_on_many_threads() {
    // Each thread of the runtime gets the recorder. A recorder for the process would also get the
    // metrics of other tests.
    let recorder: &DebuggingRecorder = Box::leak(Box::default());
    let record = || RECORDING.set(Some(metrics::set_default_local_recorder(recorder)));
    record();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(record)
        .build();
    runtime
        .expect("a runtime")
        .block_on(return_to_zero(&recorder.snapshotter()));
    RECORDING.set(None);
}

async fn return_to_zero(snapshotter: &Snapshotter) {
    let supervisor = Supervisor::builder().max_concurrent(2).build();
    for round in 0..100 {
        let call = Call::new(&supervisor, "/");
        call.tasks.add(async {});
        call.tasks.add(Task::blocking(|| ()));
        call.tasks.add(Task::new(async {}).named("taken back"));
        if round % 2 == 0 {
            assert_eq!(call.tasks.remove("taken back"), 1);
        }
        let tasks = call.tasks.clone();
        call.finish().await;
        tasks.add(async {});
        tasks.remove("taken back");
    }
    soon(supervisor.idle()).await;
    assert_eq!(supervisor.stats().added(), 400);

    let (mut gauges, mut ended) = ([0.0; 3], 0);
    soon(async {
        loop {
            let snapshot = Snapshot::of(snapshotter);
            for (gauge, moved) in gauges.iter_mut().zip(snapshot.gauges()) {
                *gauge += moved;
            }
            ended += snapshot.counters.values().sum::<u64>();
            if ended == 400 && gauges.iter().all(|gauge: &f64| gauge.abs() < f64::EPSILON) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}
