//! A layer of the `tracing` subscriber panics in its callbacks for this crate, or the recorder of
//! metrics panics. All tasks still run, the statistics stay right, and the process does not abort.

use std::{
    panic::panic_any,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName,
    Metadata as MetricMetadata, Recorder, SharedString, Unit,
};
use tower_background::{Supervisor, Task};
use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::common::{Call, PATIENCE, alone, soon, workers};

/// How often something panicked on purpose.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn panic_on_purpose() -> ! {
    PANICS.fetch_add(1, SeqCst);
    panic_any("foreign code panics on purpose")
}

fn panic_as_it_should() {
    panic!("as it should");
}

/// Four tasks of a request, of which one fails and one panics, all run and are counted.
fn assert_all_run() {
    workers(2).block_on(async {
        let supervisor = Supervisor::new();
        let ran = Arc::new(AtomicUsize::new(0));
        let call = Call::new(&supervisor, "/");
        let note = || {
            let ran = ran.clone();
            move || {
                ran.fetch_add(1, SeqCst);
            }
        };
        let [succeeds, fails, panics, blocks] = [note(), note(), note(), note()];
        tracing::info_span!("request").in_scope(|| {
            call.tasks
                .add(Task::new(async move { succeeds() }).named("succeeds"));
            call.tasks.add(
                Task::new(async move {
                    fails();
                    tokio::task::yield_now().await;
                    Err::<(), _>("as it should")
                })
                .named("fails"),
            );
            let panicking = async move {
                panics();
                panic_as_it_should();
            };
            call.tasks.add(Task::new(panicking).named("panics"));
            call.tasks.add(Task::blocking(blocks).named("blocks"));
        });
        call.finish().await;
        soon(supervisor.idle()).await;
        let stats = supervisor.stats();
        assert_eq!(ran.load(SeqCst), 4, "{stats:?}");
        let outcomes = (
            stats.succeeded,
            stats.failed,
            stats.panicked,
            stats.pending(),
            stats.added(),
        );
        assert_eq!(outcomes, (2, 1, 1, 0, 4), "{stats:?}");
        assert_eq!(supervisor.open_responses(), 0);
        assert!(soon(supervisor.shutdown(PATIENCE)).await.is_clean());
    });
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Callback {
    RegisterCallsite,
    Enabled,
    EventEnabled,
    NewSpan,
    Record,
    FollowsFrom,
    Event,
    Enter,
    Exit,
    Close,
    /// Each of them.
    All,
}

/// Panics in one callback, for spans and events of this crate.
struct Panicking(Callback);

impl Panicking {
    fn reached(&self, callback: Callback, metadata: Option<&Metadata<'_>>) {
        let ours =
            metadata.is_some_and(|metadata| metadata.target().starts_with("tower_background"));
        if ours && (self.0 == callback || self.0 == Callback::All) {
            panic_on_purpose();
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panicking {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.reached(Callback::RegisterCallsite, Some(metadata));
        // So that `enabled` is asked each time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.reached(Callback::Enabled, Some(metadata));
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.reached(Callback::EventEnabled, Some(event.metadata()));
        true
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.reached(Callback::NewSpan, Some(attributes.metadata()));
    }

    fn on_record(&self, span: &Id, _: &Record<'_>, cx: Context<'_, S>) {
        self.reached(Callback::Record, cx.metadata(span));
    }

    fn on_follows_from(&self, span: &Id, _: &Id, cx: Context<'_, S>) {
        self.reached(Callback::FollowsFrom, cx.metadata(span));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.reached(Callback::Event, Some(event.metadata()));
    }

    fn on_enter(&self, span: &Id, cx: Context<'_, S>) {
        self.reached(Callback::Enter, cx.metadata(span));
    }

    fn on_exit(&self, span: &Id, cx: Context<'_, S>) {
        self.reached(Callback::Exit, cx.metadata(span));
    }

    fn on_close(&self, span: Id, cx: Context<'_, S>) {
        self.reached(Callback::Close, cx.metadata(&span));
    }
}

/// Runs the tasks under a subscriber that panics, which is one for the whole process.
fn assert_all_run_under(callback: Callback) {
    let subscriber = tracing_subscriber::registry().with(Panicking(callback));
    tracing::subscriber::set_global_default(subscriber).expect("there is none in this process");
    assert_all_run();
    assert_ne!(
        PANICS.load(SeqCst),
        0,
        "the layer should have panicked in {callback:?}"
    );
}

macro_rules! callbacks {
    ($($test:ident: $callback:ident,)*) => {
        $(
            #[test]
            fn $test() {
                alone!($test, || assert_all_run_under(Callback::$callback));
            }
        )*
    };
}

callbacks! {
    a_layer_panics_in_register_callsite: RegisterCallsite,
    a_layer_panics_in_enabled: Enabled,
    a_layer_panics_in_event_enabled: EventEnabled,
    a_layer_panics_in_on_new_span: NewSpan,
    a_layer_panics_in_on_record: Record,
    a_layer_panics_in_on_follows_from: FollowsFrom,
    a_layer_panics_in_on_event: Event,
    a_layer_panics_in_on_enter: Enter,
    a_layer_panics_in_on_exit: Exit,
    a_layer_panics_in_on_close: Close,
    a_layer_panics_in_each_callback: All,
}

/// A recorder that panics when a metric is registered, or when it is changed.
struct PanickingRecorder {
    at_registration: bool,
}

struct PanickingMetric;

impl CounterFn for PanickingMetric {
    fn increment(&self, _: u64) {
        panic_on_purpose();
    }

    fn absolute(&self, _: u64) {
        panic_on_purpose();
    }
}

impl GaugeFn for PanickingMetric {
    fn increment(&self, _: f64) {
        panic_on_purpose();
    }

    fn decrement(&self, _: f64) {
        panic_on_purpose();
    }

    fn set(&self, _: f64) {
        panic_on_purpose();
    }
}

impl HistogramFn for PanickingMetric {
    fn record(&self, _: f64) {
        panic_on_purpose();
    }
}

impl PanickingRecorder {
    fn metric(&self) -> Arc<PanickingMetric> {
        if self.at_registration {
            panic_on_purpose();
        }
        Arc::new(PanickingMetric)
    }
}

impl Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &MetricMetadata<'_>) -> Counter {
        Counter::from_arc(self.metric())
    }

    fn register_gauge(&self, _: &Key, _: &MetricMetadata<'_>) -> Gauge {
        Gauge::from_arc(self.metric())
    }

    fn register_histogram(&self, _: &Key, _: &MetricMetadata<'_>) -> Histogram {
        Histogram::from_arc(self.metric())
    }
}

fn assert_all_run_with(recorder: PanickingRecorder) {
    metrics::set_global_recorder(recorder)
        .map_err(|_| ())
        .expect("there is none in this process");
    assert_all_run();
    assert_ne!(PANICS.load(SeqCst), 0, "the recorder should have panicked");
}

#[test]
fn a_recorder_panics_at_registration() {
    alone!(a_recorder_panics_at_registration, || assert_all_run_with(
        PanickingRecorder {
            at_registration: true
        }
    ));
}

#[test]
fn a_recorder_panics_when_a_metric_changes() {
    alone!(a_recorder_panics_when_a_metric_changes, || {
        assert_all_run_with(PanickingRecorder {
            at_registration: false,
        });
    });
}
