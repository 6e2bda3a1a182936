//! The books of all rounds together.

use std::{collections::BTreeMap, fmt, sync::atomic::Ordering::SeqCst};

use tower_background::Stats;

use crate::{books::Fate, field::Seen, round::Round};

#[derive(Debug, Default)]
pub struct Total {
    pub calls: u64,
    pub wrong: Vec<String>,
    created: u64,
    started: u64,
    refused: u64,
    condition_panics: u64,
    fates: BTreeMap<Fate, u64>,
    stats: Stats,
    pairs: BTreeMap<(Fate, &'static str, bool), u64>,
    ends: BTreeMap<String, u64>,
    seen: BTreeMap<(&'static str, Seen), u64>,
}

const FATES: [(Fate, &str); 6] = [
    (Fate::Returned, "returned"),
    (Fate::Failed, "failed"),
    (Fate::Panicked, "panicked"),
    (Fate::Told, "blocked until told"),
    (Fate::DroppedUnfinished, "dropped unfinished"),
    (Fate::DroppedUnstarted, "dropped unstarted"),
];

impl Total {
    pub fn add(&mut self, round: Round) {
        let books = &round.books;
        self.calls += books.calls.load(SeqCst);
        self.created += books.created.load(SeqCst);
        self.started += books.started.load(SeqCst);
        self.refused += books.refused.load(SeqCst);
        self.condition_panics += books.condition_panics.load(SeqCst);
        for (fate, _) in FATES {
            *self.fates.entry(fate).or_default() += books.fate(fate);
        }
        for (pair, count) in books.pairs() {
            *self.pairs.entry(pair).or_default() += count;
        }
        for (end, count) in books.ends() {
            *self.ends.entry(end).or_default() += count;
        }
        for (seen, count) in &round.seen {
            *self.seen.entry(*seen).or_default() += count;
        }
        let (total, stats) = (&mut self.stats, round.stats);
        total.collected += stats.collected;
        total.waiting += stats.waiting;
        total.running += stats.running;
        total.succeeded += stats.succeeded;
        total.failed += stats.failed;
        total.panicked += stats.panicked;
        total.timed_out += stats.timed_out;
        total.cancelled += stats.cancelled;
        total.skipped += stats.skipped;
        total.refused += stats.refused;
        self.wrong.extend(round.wrong.into_iter().map(|wrong| format!("round {}: {wrong}", round.number)));
    }

    /// An attack that leaves out a way to end has proved nothing of it.
    pub fn check_variety(&mut self) {
        for end in ["Complete", "Aborted", "BodyError", "ServiceError", "Cancelled", "Panicked", "(tasks) Unfinished"] {
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

const fn outcomes(stats: &Stats) -> [(&'static str, u64); 7] {
    [
        ("succeeded", stats.succeeded),
        ("failed", stats.failed),
        ("panicked", stats.panicked),
        ("timed out", stats.timed_out),
        ("cancelled", stats.cancelled),
        ("skipped", stats.skipped),
        ("refused", stats.refused),
    ]
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<30}{:>12}   {:<20}{:>12}", "kept by the tasks", "", "told by supervisors", "")?;
        writeln!(f, "{:<30}{:>12}   {:<20}{:>12}", "created", self.created, "added", self.stats.added())?;
        writeln!(f, "{:<30}{:>12}   {:<20}{:>12}", "started", self.started, "pending", self.stats.pending())?;
        let own = FATES.iter().map(|(fate, label)| (*label, self.fates.get(fate).copied().unwrap_or_default()));
        let own = own.chain([("(of these refused by `add`)", self.refused)]);
        for ((label, count), (outcome, told)) in own.zip(outcomes(&self.stats)) {
            writeln!(f, "{label:<30}{count:>12}   {outcome:<20}{told:>12}")?;
        }
        writeln!(f, "{:<30}{:>12}", "(and conditions that panicked)", self.condition_panics)?;
        writeln!(f, "\nwhat tasks saw, and what was told of them, in the rounds that were watched:")?;
        for ((fate, outcome, blocking), count) in &self.pairs {
            writeln!(f, "  {fate:?}{}: {outcome}, {count}", if *blocking { ", blocking" } else { "" })?;
        }
        writeln!(f, "how responses ended, in these rounds: {:?}", self.ends)?;
        writeln!(f, "what clients saw: {:?}", self.seen)
    }
}
