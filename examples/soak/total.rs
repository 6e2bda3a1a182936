//! The sums of all rounds.

use std::{collections::BTreeMap, fmt, sync::atomic::Ordering::SeqCst};

use tower_background::Stats;

use crate::{account::TaskEnd, round::Round, shared::Seen};

#[derive(Debug, Default)]
pub struct Total {
    pub calls: u64,
    pub wrong: Vec<String>,
    created: u64,
    started: u64,
    refused: u64,
    condition_panics: u64,
    ends_of_tasks: BTreeMap<TaskEnd, u64>,
    fallbacks: BTreeMap<TaskEnd, u64>,
    stats: Stats,
    pairs: BTreeMap<(TaskEnd, &'static str, bool), u64>,
    ends: BTreeMap<String, u64>,
    seen: BTreeMap<(&'static str, Seen), u64>,
}

const TASK_ENDS: [(TaskEnd, &str); 6] = [
    (TaskEnd::Returned, "returned"),
    (TaskEnd::Failed, "failed"),
    (TaskEnd::Panicked, "panicked"),
    (TaskEnd::Cancelled, "blocked until cancelled"),
    (TaskEnd::DroppedUnfinished, "dropped unfinished"),
    (TaskEnd::DroppedUnstarted, "dropped unstarted"),
];

impl Total {
    pub fn add(&mut self, round: Round) {
        let account = &round.account;
        self.calls += account.calls.load(SeqCst);
        self.created += account.created.load(SeqCst);
        self.started += account.started.load(SeqCst);
        self.refused += account.refused.load(SeqCst);
        self.condition_panics += account.condition_panics.load(SeqCst);
        for (end, _) in TASK_ENDS {
            *self.ends_of_tasks.entry(end).or_default() += account.end(end);
            *self.fallbacks.entry(end).or_default() += account.fallback(end);
        }
        for (pair, count) in account.pairs() {
            *self.pairs.entry(pair).or_default() += count;
        }
        for (end, count) in account.ends() {
            *self.ends.entry(end).or_default() += count;
        }
        for (seen, count) in &round.seen {
            *self.seen.entry(*seen).or_default() += count;
        }
        let (total, stats) = (&mut self.stats, round.stats);
        total.deferred += stats.deferred;
        total.queued += stats.queued;
        total.running += stats.running;
        total.succeeded += stats.succeeded;
        total.failed += stats.failed;
        total.panicked += stats.panicked;
        total.timed_out += stats.timed_out;
        total.aborted += stats.aborted;
        total.removed += stats.removed;
        total.skipped += stats.skipped;
        total.fell_back += stats.fell_back;
        total.refused += stats.refused;
        self.wrong.extend(
            round
                .wrong
                .into_iter()
                .map(|wrong| format!("round {}: {wrong}", round.number)),
        );
    }

    /// Checks that each kind of end occurred. Otherwise the run has tested less than it should.
    pub fn check_variety(&mut self) {
        for end in [
            "Complete",
            "Interrupted",
            "Failed",
            "ServiceError",
            "NoResponse",
            "Panicked",
            "(tasks) Unfinished",
        ] {
            if !self.ends.contains_key(end) {
                self.wrong.push(format!("no response ended as {end}"));
            }
        }
        for (outcome, count) in outcomes(&self.stats) {
            if count == 0 {
                self.wrong.push(format!("no task was {outcome}"));
            }
        }
    }
}

const fn outcomes(stats: &Stats) -> [(&'static str, u64); 9] {
    [
        ("succeeded", stats.succeeded),
        ("failed", stats.failed),
        ("panicked", stats.panicked),
        ("timed out", stats.timed_out),
        ("aborted", stats.aborted),
        ("removed", stats.removed),
        ("skipped", stats.skipped),
        ("fell back", stats.fell_back),
        ("refused", stats.refused),
    ]
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<30}{:>12}   {:<20}{:>12}",
            "counted by the tasks", "", "counted by supervisors", ""
        )?;
        writeln!(
            f,
            "{:<30}{:>12}   {:<20}{:>12}",
            "created",
            self.created,
            "added",
            self.stats.added()
        )?;
        writeln!(
            f,
            "{:<30}{:>12}   {:<20}{:>12}",
            "started",
            self.started,
            "pending",
            self.stats.pending()
        )?;
        let own = TASK_ENDS.iter().map(|(end, label)| {
            (
                *label,
                self.ends_of_tasks.get(end).copied().unwrap_or_default(),
            )
        });
        let fell_back = self
            .fallbacks
            .get(&TaskEnd::Returned)
            .copied()
            .unwrap_or_default();
        let more = [
            ("(refused)", self.refused),
            ("(conditions that panicked)", self.condition_panics),
        ];
        let own = own
            .chain(more)
            .chain([("(fallbacks that succeeded)", fell_back)]);
        for ((label, count), (outcome, reported)) in own.zip(outcomes(&self.stats)) {
            writeln!(f, "{label:<30}{count:>12}   {outcome:<20}{reported:>12}")?;
        }
        writeln!(f, "how shutdown fallbacks ended: {:?}", self.fallbacks)?;
        writeln!(
            f,
            "\nown ends and reported outcomes, in the rounds with an observer:"
        )?;
        for ((end, outcome, blocking), count) in &self.pairs {
            writeln!(
                f,
                "  {end:?}{}: {outcome}, {count}",
                if *blocking { ", blocking" } else { "" }
            )?;
        }
        writeln!(f, "how responses ended, in these rounds: {:?}", self.ends)?;
        writeln!(f, "what clients saw: {:?}", self.seen)
    }
}
