//! Keeps what is logged.

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The events of one thread since [`Events::record`], as level and text.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<Vec<(Level, String)>>>);

impl Events {
    /// Records what this thread logs until the guard is dropped.
    #[must_use = "recording ends with the guard"]
    pub fn record() -> (Self, tracing::subscriber::DefaultGuard) {
        let events = Self::default();
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(events.clone()));
        (events, guard)
    }

    /// The events of this crate that there are now.
    pub fn ours(&self) -> Vec<(Level, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("tower_background") {
            let mut text = Text::default();
            event.record(&mut text);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*event.metadata().level(), text.0));
        }
    }
}

/// An event's fields, as `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).expect("a string takes all");
    }
}
