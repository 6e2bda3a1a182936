//! [`RequestReporter`]: collects how the tasks of one request end. Only supervisors with observers have it.

use std::sync::Arc;

use super::{
    observer::Observers,
    report::{RequestReport, TaskReport},
    stats::{Counter, Stats},
};
use crate::{
    response::ResponseEnd,
    util::sync::{Mutex, lock},
};

#[derive(Debug, Default)]
pub(crate) struct RequestReporter(Mutex<Collected>);

#[derive(Debug, Default)]
struct Collected {
    end: Option<Arc<ResponseEnd>>,
    has_started: bool,
    pending: u64,
    stats: Stats,
    failures: Vec<TaskReport>,
}

impl RequestReporter {
    /// Notes a task that was added.
    pub(super) fn add(&self) {
        lock(&self.0).pending += 1;
    }

    /// Notes that the tasks of the request may start, and reports if all of them have ended
    /// already.
    pub(crate) fn start(&self, end: Option<Arc<ResponseEnd>>, observers: &Observers) {
        let mut collected = lock(&self.0);
        collected.end = end;
        collected.has_started = true;
        let report = collected.take_if_done();
        drop(collected);
        notify(report, observers);
    }

    /// Notes how a task ended, and reports if it was the last one.
    pub(super) fn end(&self, report: TaskReport, count: Counter, observers: &Observers) {
        let mut discarded = None;
        let mut collected = lock(&self.0);
        collected.pending -= 1;
        count(&mut collected.stats);
        if report.outcome.is_failure() && collected.failures.len() < RequestReport::MAX_FAILURES {
            collected.failures.push(report);
        } else {
            discarded = Some(report);
        }
        let done = collected.take_if_done();
        drop(collected);
        drop(discarded);
        notify(done, observers);
    }
}

impl Collected {
    fn take_if_done(&mut self) -> Option<RequestReport> {
        if !self.has_started || self.pending > 0 || self.stats.ended() == 0 {
            return None;
        }
        let (stats, failures) = (
            std::mem::take(&mut self.stats),
            std::mem::take(&mut self.failures),
        );
        Some(RequestReport {
            end: self.end.clone(),
            stats,
            failures,
        })
    }
}

fn notify(report: Option<RequestReport>, observers: &Observers) {
    if let Some(report) = report {
        observers.notify(|observer| observer.on_request_done(&report));
    }
}
