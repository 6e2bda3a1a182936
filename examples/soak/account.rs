//! Counts what happens to tasks without asking the supervisor: each task owns a record, which notes
//! what happens to the task.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tower_background::{
    EndKind, Observer, Outcome, ResponseEnd,
    report::{RequestReport, TaskReport},
};

/// How a task ended, as the task itself saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskEnd {
    DroppedUnstarted,
    DroppedUnfinished,
    Returned,
    Failed,
    Panicked,
    /// A blocking function that ran until its context was cancelled.
    Cancelled,
}

/// After which ends of the response a task should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Responded,
    Complete,
    Success,
    Delivered,
    Always,
    Panics,
}

impl Condition {
    /// Returns whether the task should run. This repeats the rule of the crate in other words.
    fn holds(self, end: &ResponseEnd) -> bool {
        let complete = end.kind() == EndKind::Complete;
        let good = end
            .status()
            .is_some_and(|status| !status.is_client_error() && !status.is_server_error());
        let broken = matches!(end.kind(), EndKind::Failed | EndKind::Panicked);
        match self {
            Self::Responded => end.time_to_head().is_some(),
            Self::Complete => complete,
            Self::Success => good && !broken,
            Self::Delivered => good && complete,
            Self::Always | Self::Panics => true,
        }
    }
}

/// What the tasks of one supervisor have counted.
#[derive(Debug, Default)]
pub struct Account {
    pub created: AtomicU64,
    pub started: AtomicU64,
    pub refused: AtomicU64,
    pub condition_panics: AtomicU64,
    pub calls: AtomicU64,
    pub responses: AtomicU64,
    reported: AtomicU64,
    dropped: AtomicU64,
    started_twice: AtomicU64,
    running: [AtomicU64; 2],
    most_running: [AtomicU64; 2],
    ends_of_tasks: [[AtomicU64; 6]; 2],
    fallbacks: [AtomicU64; 6],
    observed: Option<Observed>,
}

/// What is known of each task, if the supervisor has an observer.
#[derive(Debug, Default)]
struct Observed {
    open: [Mutex<HashMap<u64, Entry>>; 16],
    closed: Mutex<BTreeMap<(TaskEnd, &'static str, bool), u64>>,
    ends: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

/// A task of which its own record or the report of the supervisor is still missing.
#[derive(Debug)]
struct Entry {
    condition: Condition,
    fail_fast: bool,
    blocking: bool,
    end: Option<TaskEnd>,
    /// How the shutdown fallback ended, if it ran.
    fallback: Option<TaskEnd>,
    reported: Option<Reported>,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    outcome: &'static str,
    ran: bool,
    holds: Option<bool>,
}

impl Account {
    pub fn new(observed: bool) -> Arc<Self> {
        Arc::new(Self {
            observed: observed.then(Observed::default),
            ..Self::default()
        })
    }

    pub const fn is_observed(&self) -> bool {
        self.observed.is_some()
    }

    /// Adds a task, and returns the record that the task must own.
    pub fn record(
        self: &Arc<Self>,
        condition: Condition,
        fail_fast: bool,
        blocking: bool,
    ) -> TaskRecord {
        let number = self.created.fetch_add(1, SeqCst);
        if let Some(observed) = &self.observed {
            let entry = Entry {
                condition,
                fail_fast,
                blocking,
                end: None,
                fallback: None,
                reported: None,
            };
            observed.shard(number).lock().unwrap().insert(number, entry);
        }
        TaskRecord {
            account: Arc::clone(self),
            number,
            blocking,
            end: TaskEnd::DroppedUnstarted,
        }
    }

    /// Returns how many records still exist.
    pub fn alive(&self) -> u64 {
        self.created.load(SeqCst) - self.dropped.load(SeqCst)
    }

    pub fn end(&self, end: TaskEnd) -> u64 {
        self.ends_of_tasks
            .iter()
            .map(|ends_of_tasks| ends_of_tasks[end as usize].load(SeqCst))
            .sum()
    }

    /// Returns how many shutdown fallbacks ended like this.
    pub fn fallback(&self, end: TaskEnd) -> u64 {
        self.fallbacks[end as usize].load(SeqCst)
    }

    /// Notes that the supervisor has refused a task. Observers do not see such a task.
    pub fn refuse(&self, number: u64) {
        self.refused.fetch_add(1, SeqCst);
        if let Some(observed) = &self.observed {
            let reported = Reported {
                outcome: "refused",
                ran: false,
                holds: None,
            };
            observed.note(number, |entry| entry.reported.replace(reported).is_some());
        }
    }

    /// Returns how many asynchronous and how many blocking tasks ran at once.
    pub fn most_running(&self) -> [u64; 2] {
        [0, 1].map(|kind| self.most_running[kind].load(SeqCst))
    }

    pub fn started_twice(&self) -> u64 {
        self.started_twice.load(SeqCst)
    }

    /// Returns how often each end that a task saw came with each reported outcome. The last value
    /// says whether the task blocks.
    pub fn pairs(&self) -> BTreeMap<(TaskEnd, &'static str, bool), u64> {
        self.observed
            .as_ref()
            .map(|observed| observed.closed.lock().unwrap().clone())
            .unwrap_or_default()
    }

    pub fn ends(&self) -> BTreeMap<String, u64> {
        self.observed
            .as_ref()
            .map(|observed| observed.ends.lock().unwrap().clone())
            .unwrap_or_default()
    }

    /// Returns everything that does not agree.
    pub fn disagreements(&self) -> Vec<String> {
        let Some(observed) = &self.observed else {
            return Vec::new();
        };
        let mut wrong = observed.wrong.lock().unwrap().clone();
        for shard in &observed.open {
            wrong.extend(
                shard
                    .lock()
                    .unwrap()
                    .iter()
                    .map(|(number, entry)| format!("task {number} has no end: {entry:?}")),
            );
        }
        let (reported, created, refused) = (
            self.reported.load(SeqCst),
            self.created.load(SeqCst),
            self.refused.load(SeqCst),
        );
        if reported != created - refused {
            wrong.push(format!("{reported} tasks in reports of requests, but {created} created and {refused} refused"));
        }
        let (responses, calls) = (self.responses.load(SeqCst), self.calls.load(SeqCst));
        if responses != calls {
            wrong.push(format!(
                "{responses} responses ended, but {calls} requests came"
            ));
        }
        wrong
    }
}

impl Observed {
    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Entry>> {
        let mut hasher = DefaultHasher::new();
        number.hash(&mut hasher);
        &self.open[usize::try_from(hasher.finish() % 16).expect("it is small")]
    }

    /// Notes the own end or the report of a task. Compares them when both are there.
    fn note(&self, number: u64, half: impl FnOnce(&mut Entry) -> bool) {
        let mut shard = self.shard(number).lock().unwrap();
        let Some(entry) = shard.get_mut(&number) else {
            return self
                .wrong
                .lock()
                .unwrap()
                .push(format!("task {number} was reported after its end"));
        };
        if half(entry) {
            self.wrong
                .lock()
                .unwrap()
                .push(format!("task {number} was reported twice: {entry:?}"));
        }
        let (Some(end), Some(reported)) = (entry.end, entry.reported) else {
            return;
        };
        let entry = shard.remove(&number).expect("it was there");
        drop(shard);
        *self
            .closed
            .lock()
            .unwrap()
            .entry((end, reported.outcome, entry.blocking))
            .or_default() += 1;
        if !entry.agrees(end, reported) {
            self.wrong
                .lock()
                .unwrap()
                .push(format!("task {number}: {entry:?}"));
        }
    }
}

impl Entry {
    fn agrees(&self, end: TaskEnd, reported: Reported) -> bool {
        let runs = reported.holds != Some(false);
        let possible = match reported.outcome {
            // The work was dropped before the fallback ran. A blocking function may still run.
            outcome if self.fallback.is_some() => {
                let dropped = self.blocking
                    || matches!(end, TaskEnd::DroppedUnstarted | TaskEnd::DroppedUnfinished);
                let expected = match self.fallback {
                    Some(TaskEnd::Returned) => "fell_back",
                    Some(TaskEnd::Failed) => "failed",
                    Some(TaskEnd::Panicked) => "panicked",
                    _ => "aborted",
                };
                dropped && runs && reported.ran && outcome == expected
            }
            "succeeded" => end == TaskEnd::Returned || end == TaskEnd::Cancelled,
            "failed" => end == TaskEnd::Failed,
            "panicked" if self.condition == Condition::Panics => end == TaskEnd::DroppedUnstarted,
            "panicked" => end == TaskEnd::Panicked,
            "skipped" => end == TaskEnd::DroppedUnstarted && (!runs || self.fail_fast),
            "refused" | "removed" => end == TaskEnd::DroppedUnstarted,
            // A blocking function may go on after it was reported, and end in any way.
            "timed_out" => reported.ran && (self.blocking || end == TaskEnd::DroppedUnfinished),
            "aborted" => {
                self.blocking
                    || matches!(end, TaskEnd::DroppedUnstarted | TaskEnd::DroppedUnfinished)
            }
            _ => false,
        };
        let started = end != TaskEnd::DroppedUnstarted;
        possible && (!started || (runs && reported.ran))
    }
}

impl Observer for Account {
    fn on_response_end(&self, end: &ResponseEnd) {
        self.responses.fetch_add(1, SeqCst);
        if let Some(observed) = &self.observed {
            *observed
                .ends
                .lock()
                .unwrap()
                .entry(format!("{:?}", end.kind()))
                .or_default() += 1;
        }
    }

    fn on_task_end(&self, report: &TaskReport) {
        let Some(observed) = &self.observed else {
            return;
        };
        let number = report
            .name()
            .and_then(|name| name.parse().ok())
            .expect("each task is named by its number");
        observed.note(number, |entry| {
            let holds = report.end().map(|end| entry.condition.holds(end));
            let reported = Reported {
                outcome: Outcome::label(report.outcome()),
                ran: report.ran().is_some(),
                holds,
            };
            entry.reported.replace(reported).is_some()
        });
        if report
            .end()
            .is_some_and(|end| end.kind() == EndKind::Unfinished)
        {
            *observed
                .ends
                .lock()
                .unwrap()
                .entry("(tasks) Unfinished".to_owned())
                .or_default() += 1;
        }
    }

    fn on_request_done(&self, report: &RequestReport) {
        self.reported.fetch_add(report.stats().ended(), SeqCst);
    }
}

/// The record of a shutdown fallback that runs.
#[derive(Debug)]
pub struct Fallback {
    account: Arc<Account>,
    number: u64,
    end: TaskEnd,
}

impl Fallback {
    /// Notes that the fallback of a task runs.
    pub const fn start(account: Arc<Account>, number: u64) -> Self {
        Self {
            account,
            number,
            end: TaskEnd::DroppedUnfinished,
        }
    }

    /// Notes how the fallback ends, just before it does.
    pub const fn end(&mut self, end: TaskEnd) {
        self.end = end;
    }
}

impl Drop for Fallback {
    fn drop(&mut self) {
        self.account.fallbacks[self.end as usize].fetch_add(1, SeqCst);
        if let Some(observed) = &self.account.observed {
            observed.note(self.number, |entry| {
                entry.fallback.replace(self.end).is_some()
            });
        }
    }
}

/// The record that each task owns from its creation to its drop.
#[derive(Debug)]
pub struct TaskRecord {
    account: Arc<Account>,
    pub number: u64,
    blocking: bool,
    end: TaskEnd,
}

impl TaskRecord {
    /// Notes that the task runs.
    pub fn start(&mut self) {
        self.account.started.fetch_add(1, SeqCst);
        if self.end != TaskEnd::DroppedUnstarted {
            self.account.started_twice.fetch_add(1, SeqCst);
        }
        self.end = TaskEnd::DroppedUnfinished;
        let kind = usize::from(self.blocking);
        let running = self.account.running[kind].fetch_add(1, SeqCst) + 1;
        self.account.most_running[kind].fetch_max(running, SeqCst);
    }

    /// Notes how the task ends, just before it does.
    pub const fn end(&mut self, end: TaskEnd) {
        self.end = end;
    }
}

impl Drop for TaskRecord {
    fn drop(&mut self) {
        let kind = usize::from(self.blocking);
        if self.end != TaskEnd::DroppedUnstarted {
            self.account.running[kind].fetch_sub(1, SeqCst);
        }
        self.account.ends_of_tasks[kind][self.end as usize].fetch_add(1, SeqCst);
        if let Some(observed) = &self.account.observed {
            observed.note(self.number, |entry| entry.end.replace(self.end).is_some());
        }
        self.account.dropped.fetch_add(1, SeqCst);
    }
}
