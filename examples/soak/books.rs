//! An account of the tasks that does not ask the supervisor: it is kept by what the tasks hold.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tower_background::{BatchReport, End, Observer, Outcome, ResponseEnd, TaskReport};

/// What became of a task, as the task itself saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    DroppedUnstarted,
    DroppedUnfinished,
    Returned,
    Failed,
    Panicked,
    /// A blocking function that went on until it was told to stop.
    Told,
}

/// After which ends a task is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Responded,
    Complete,
    Success,
    Always,
    Panics,
}

impl Condition {
    /// Whether the task is to run; said once more, and in other words than the crate's.
    fn holds(self, end: &ResponseEnd) -> bool {
        let complete = end.kind() == End::Complete;
        match self {
            Self::Responded => end.time_to_head().is_some(),
            Self::Complete => complete,
            Self::Success => {
                complete && end.status().is_some_and(|status| !status.is_client_error() && !status.is_server_error())
            }
            Self::Always | Self::Panics => true,
        }
    }
}

/// The books of one supervisor.
#[derive(Debug, Default)]
pub struct Books {
    pub created: AtomicU64,
    pub started: AtomicU64,
    pub refused: AtomicU64,
    pub condition_panics: AtomicU64,
    pub calls: AtomicU64,
    pub responses: AtomicU64,
    batched: AtomicU64,
    dropped: AtomicU64,
    started_twice: AtomicU64,
    running: [AtomicU64; 2],
    most_running: [AtomicU64; 2],
    fates: [[AtomicU64; 6]; 2],
    observed: Option<Observed>,
}

/// What is known per task where the supervisor tells of each.
#[derive(Debug, Default)]
struct Observed {
    open: [Mutex<HashMap<u64, Line>>; 16],
    closed: Mutex<BTreeMap<(Fate, &'static str, bool), u64>>,
    ends: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

/// A task whose two halves, what it saw and what the supervisor told, have not both come in.
#[derive(Debug)]
struct Line {
    condition: Condition,
    fail_fast: bool,
    blocking: bool,
    fate: Option<Fate>,
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    outcome: &'static str,
    ran: bool,
    holds: Option<bool>,
}

impl Books {
    pub fn new(observed: bool) -> Arc<Self> {
        Arc::new(Self { observed: observed.then(Observed::default), ..Self::default() })
    }

    pub const fn is_observed(&self) -> bool {
        self.observed.is_some()
    }

    /// Enters a task.
    pub fn slip(self: &Arc<Self>, condition: Condition, fail_fast: bool, blocking: bool) -> Slip {
        let number = self.created.fetch_add(1, SeqCst);
        if let Some(observed) = &self.observed {
            let line = Line { condition, fail_fast, blocking, fate: None, told: None };
            observed.shard(number).lock().unwrap().insert(number, line);
        }
        Slip { books: Arc::clone(self), number, blocking, fate: Fate::DroppedUnstarted }
    }

    /// The tasks whose slip still exists.
    pub fn alive(&self) -> u64 {
        self.created.load(SeqCst) - self.dropped.load(SeqCst)
    }

    pub fn fate(&self, fate: Fate) -> u64 {
        self.fates.iter().map(|fates| fates[fate as usize].load(SeqCst)).sum()
    }

    /// How many asynchronous and how many blocking tasks ran at once.
    pub fn most_running(&self) -> [u64; 2] {
        [0, 1].map(|kind| self.most_running[kind].load(SeqCst))
    }

    pub fn started_twice(&self) -> u64 {
        self.started_twice.load(SeqCst)
    }

    /// What the tasks saw, by what the supervisor told of them.
    pub fn pairs(&self) -> BTreeMap<(Fate, &'static str, bool), u64> {
        self.observed.as_ref().map(|observed| observed.closed.lock().unwrap().clone()).unwrap_or_default()
    }

    pub fn ends(&self) -> BTreeMap<String, u64> {
        self.observed.as_ref().map(|observed| observed.ends.lock().unwrap().clone()).unwrap_or_default()
    }

    /// All that does not agree, task by task.
    pub fn disagreements(&self) -> Vec<String> {
        let Some(observed) = &self.observed else { return Vec::new() };
        let mut wrong = observed.wrong.lock().unwrap().clone();
        for shard in &observed.open {
            wrong.extend(shard.lock().unwrap().iter().map(|(number, line)| format!("task {number} has no end: {line:?}")));
        }
        let (batched, created, refused) = (self.batched.load(SeqCst), self.created.load(SeqCst), self.refused.load(SeqCst));
        if batched != created - refused {
            wrong.push(format!("{batched} tasks in batches, but {created} created and {refused} of them refused"));
        }
        let (responses, calls) = (self.responses.load(SeqCst), self.calls.load(SeqCst));
        if responses != calls {
            wrong.push(format!("{responses} responses ended, but {calls} requests came"));
        }
        wrong
    }
}

impl Observed {
    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Line>> {
        let mut hasher = DefaultHasher::new();
        number.hash(&mut hasher);
        &self.open[usize::try_from(hasher.finish() % 16).expect("it is small")]
    }

    /// Notes one half of a line, and closes it if that was the second.
    fn note(&self, number: u64, half: impl FnOnce(&mut Line) -> bool) {
        let mut shard = self.shard(number).lock().unwrap();
        let Some(line) = shard.get_mut(&number) else {
            return self.wrong.lock().unwrap().push(format!("task {number} was told of after its end"));
        };
        if half(line) {
            self.wrong.lock().unwrap().push(format!("task {number} was told of twice: {line:?}"));
        }
        let (Some(fate), Some(told)) = (line.fate, line.told) else { return };
        let line = shard.remove(&number).expect("it was there");
        drop(shard);
        *self.closed.lock().unwrap().entry((fate, told.outcome, line.blocking)).or_default() += 1;
        if !line.agrees(fate, told) {
            self.wrong.lock().unwrap().push(format!("task {number}: {line:?}"));
        }
    }
}

impl Line {
    fn agrees(&self, fate: Fate, told: Told) -> bool {
        let runs = told.holds != Some(false);
        let possible = match told.outcome {
            "succeeded" => fate == Fate::Returned || fate == Fate::Told,
            "failed" => fate == Fate::Failed,
            "panicked" if self.condition == Condition::Panics => fate == Fate::DroppedUnstarted,
            "panicked" => fate == Fate::Panicked,
            "skipped" => fate == Fate::DroppedUnstarted && (!runs || self.fail_fast),
            "refused" => fate == Fate::DroppedUnstarted,
            // A function on a thread of its own may go on beyond the end that is told of it, and end in any way.
            "timed_out" => told.ran && (self.blocking || fate == Fate::DroppedUnfinished),
            "cancelled" => self.blocking || matches!(fate, Fate::DroppedUnstarted | Fate::DroppedUnfinished),
            _ => false,
        };
        let started = fate != Fate::DroppedUnstarted;
        possible && (!started || (runs && told.ran))
    }
}

impl Observer for Books {
    fn response_ended(&self, end: &ResponseEnd) {
        self.responses.fetch_add(1, SeqCst);
        if let Some(observed) = &self.observed {
            *observed.ends.lock().unwrap().entry(format!("{:?}", end.kind())).or_default() += 1;
        }
    }

    fn task_ended(&self, report: &TaskReport) {
        let Some(observed) = &self.observed else { return };
        let number = report.name().and_then(|name| name.parse().ok()).expect("each task is named by its number");
        observed.note(number, |line| {
            let holds = report.end().map(|end| line.condition.holds(end));
            let told = Told { outcome: Outcome::label(report.outcome()), ran: report.ran().is_some(), holds };
            line.told.replace(told).is_some()
        });
        if report.end().is_some_and(|end| end.kind() == End::Unfinished) {
            *observed.ends.lock().unwrap().entry("(tasks) Unfinished".to_owned()).or_default() += 1;
        }
    }

    fn batch_ended(&self, report: &BatchReport) {
        self.batched.fetch_add(report.tasks().len() as u64, SeqCst);
    }
}

/// What each task holds from its making to its drop.
#[derive(Debug)]
pub struct Slip {
    books: Arc<Books>,
    pub number: u64,
    blocking: bool,
    fate: Fate,
}

impl Slip {
    /// Notes that the task runs.
    pub fn start(&mut self) {
        self.books.started.fetch_add(1, SeqCst);
        if self.fate != Fate::DroppedUnstarted {
            self.books.started_twice.fetch_add(1, SeqCst);
        }
        self.fate = Fate::DroppedUnfinished;
        let kind = usize::from(self.blocking);
        let running = self.books.running[kind].fetch_add(1, SeqCst) + 1;
        self.books.most_running[kind].fetch_max(running, SeqCst);
    }

    /// Notes how the task comes to its end, just before it does.
    pub const fn end(&mut self, fate: Fate) {
        self.fate = fate;
    }
}

impl Drop for Slip {
    fn drop(&mut self) {
        let kind = usize::from(self.blocking);
        if self.fate != Fate::DroppedUnstarted {
            self.books.running[kind].fetch_sub(1, SeqCst);
        }
        self.books.fates[kind][self.fate as usize].fetch_add(1, SeqCst);
        if let Some(observed) = &self.books.observed {
            observed.note(self.number, |line| line.fate.replace(self.fate).is_some());
        }
        self.books.dropped.fetch_add(1, SeqCst);
    }
}
