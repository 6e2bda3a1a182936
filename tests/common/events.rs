//! A `tracing` subscriber that records what it gets.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::{Arc, LazyLock, Mutex},
};

use tracing::{
    Dispatch, Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    layer::{Context, SubscriberExt},
};

/// The fields of a span or an event, as text; a message is the field `message`.
pub type Fields = BTreeMap<&'static str, String>;

/// What a subscriber was told. Spans are named by their number.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    New {
        span: u64,
        name: &'static str,
        parent: Option<u64>,
        fields: Fields,
    },
    Record {
        span: u64,
        fields: Fields,
    },
    Follows {
        span: u64,
        from: u64,
    },
    Close {
        span: u64,
        name: &'static str,
    },
    Event {
        level: Level,
        target: String,
        span: Option<u64>,
        fields: Fields,
        text: String,
    },
}

impl Entry {
    /// The message of an event.
    pub fn message(&self) -> Option<&str> {
        self.field("message")
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        match self {
            Self::New { fields, .. } | Self::Record { fields, .. } | Self::Event { fields, .. } => {
                fields.get(name).map(String::as_str)
            }
            Self::Follows { .. } | Self::Close { .. } => None,
        }
    }
}

/// Everything that was told on this thread, in order, and of the spans that were made on it.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<Vec<Entry>>>);

impl Events {
    /// Records for this thread, until the guard is dropped. A test's runtime has to run on it.
    pub fn record() -> (Self, DefaultGuard) {
        Self::up_to(LevelFilter::TRACE)
    }

    /// The same, of spans and events up to this level.
    pub fn up_to(level: LevelFilter) -> (Self, DefaultGuard) {
        // With a single subscriber, `tracing` would remember that nobody wants an event whose first
        // use is on a thread without a subscriber.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Registry::default()));
        LazyLock::force(&SECOND);
        let events = Self::default();
        let guard =
            tracing::subscriber::set_default(Registry::default().with(level).with(events.clone()));
        (events, guard)
    }

    pub fn all(&self) -> Vec<Entry> {
        self.0
            .lock()
            .expect("no test panics while it records")
            .clone()
    }

    /// The events with this message.
    pub fn with_message(&self, message: &str) -> Vec<Entry> {
        self.all()
            .into_iter()
            .filter(|entry| entry.message() == Some(message))
            .collect()
    }

    /// The events of this crate, as level and text.
    pub fn ours(&self) -> Vec<(Level, String)> {
        let ours = self.all().into_iter().filter_map(|entry| match entry {
            Entry::Event {
                level,
                target,
                text,
                ..
            } if target.starts_with("tower_background") => Some((level, text)),
            _ => None,
        });
        ours.collect()
    }

    /// The events of this crate about a task: those in its span, and those that name it.
    pub fn of_task(&self, name: &str) -> Vec<Entry> {
        let all = self.all();
        let is_of_task = |entry: &Entry| entry.field("task") == Some(name);
        let is_its_span = |id: u64| {
            all.iter().any(|entry| {
                matches!(entry, Entry::New { span, .. } if *span == id) && is_of_task(entry)
            })
        };
        let is_ours = |entry: &Entry| match entry {
            Entry::Event { target, span, .. } if target.starts_with("tower_background") => {
                is_of_task(entry) || span.is_some_and(is_its_span)
            }
            _ => false,
        };
        all.iter().filter(|entry| is_ours(entry)).cloned().collect()
    }

    fn push(&self, entry: Entry) {
        self.0
            .lock()
            .expect("no test panics while it records")
            .push(entry);
    }
}

impl<S> Layer<S> for Events
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let parent = cx
            .span(id)
            .and_then(|span| span.parent().map(|parent| parent.id().into_u64()));
        let fields = read(|visit| attributes.record(visit));
        self.push(Entry::New {
            span: id.into_u64(),
            name: attributes.metadata().name(),
            parent,
            fields,
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _cx: Context<'_, S>) {
        self.push(Entry::Record {
            span: id.into_u64(),
            fields: read(|visit| values.record(visit)),
        });
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, _cx: Context<'_, S>) {
        self.push(Entry::Follows {
            span: id.into_u64(),
            from: follows.into_u64(),
        });
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let metadata = event.metadata();
        self.push(Entry::Event {
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            span: cx.event_span(event).map(|span| span.id().into_u64()),
            fields: read(|visit| event.record(visit)),
            text: text(event),
        });
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        let name = cx.metadata(&id).map_or("", |metadata| metadata.name());
        self.push(Entry::Close {
            span: id.into_u64(),
            name,
        });
    }
}

fn read(record: impl FnOnce(&mut dyn Visit)) -> Fields {
    struct Visitor(Fields);
    impl Visit for Visitor {
        fn record_str(&mut self, field: &Field, value: &str) {
            self.0.insert(field.name(), value.to_owned());
        }

        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.insert(field.name(), format!("{value:?}"));
        }
    }
    let mut visitor = Visitor(Fields::new());
    record(&mut visitor);
    visitor.0
}

/// An event's fields in their order, as `name=value `, with texts in quotes.
fn text(event: &Event<'_>) -> String {
    struct Text(String);
    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            write!(self.0, "{}={value:?} ", field.name()).expect("a string takes all");
        }
    }
    let mut text = Text(String::new());
    event.record(&mut text);
    text.0
}
