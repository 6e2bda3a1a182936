//! What clients saw of each request, held against the jobs that were done.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How far an answer got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    #[default]
    Nothing,
    /// The head, which told of success.
    Head,
    /// Some of the body.
    Body,
    /// All of it.
    Whole,
}

/// All requests; the place of one is its id.
#[derive(Debug, Default)]
pub struct Books(Mutex<Vec<(usize, Seen)>>);

impl Books {
    /// A request of this cell.
    pub fn open(&self, cell: usize) -> usize {
        let mut requests = self.lock();
        requests.push((cell, Seen::Nothing));
        requests.len() - 1
    }

    pub fn saw(&self, id: usize, seen: Seen) {
        self.lock()[id].1 = seen;
    }

    pub fn requests(&self) -> usize {
        self.lock().len()
    }

    /// What became of the requests of a cell, if each of these jobs was done so often.
    pub fn balance(&self, cell: usize, done: &HashMap<usize, usize>) -> Row {
        let mut row = Row::default();
        for (id, (of, seen)) in self.lock().iter().enumerate() {
            if *of != cell {
                continue;
            }
            let times = done.get(&id).copied().unwrap_or(0);
            let is_success = *seen >= Seen::Head;
            row.requests += 1;
            row.successes += usize::from(is_success);
            row.twice += usize::from(times > 1);
            row.unasked += usize::from(times > 0 && !is_success);
            if times == 0 && is_success {
                row.lost.push(id);
                row.lost_whole += usize::from(*seen == Seen::Whole);
            }
        }
        row
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Seen)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub struct Row {
    requests: usize,
    successes: usize,
    /// Answered with a success, and not done.
    pub lost: Vec<usize>,
    /// Those of them whose clients have all of the answer.
    lost_whole: usize,
    twice: usize,
    /// Done, though no client saw a success.
    unasked: usize,
}

pub const HEADER: &str = "\
| engine | mode | killed | kills | requests | answered with success | jobs lost of these | (of whole answers) | done twice | done without a success |
|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, successes, lost, lost_whole, twice, unasked } = self;
        write!(f, "{requests} | {successes} | {} | ({lost_whole}) | {twice} | {unasked}", lost.len())
    }
}
