//! One round: a supervisor and a server, from their start to their shutdown under load.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tower_background::{
    Observer, Order, ResponseEnd, Stats, Supervisor,
    report::{RequestReport, ShutdownReport, TaskInfo, TaskReport},
};

use crate::{
    account::{Account, TaskEnd},
    dice::Dice,
    http1, http2, server,
    shared::{Seen, Shared},
};

const MAX_CONCURRENT: u64 = 24;
const MAX_BLOCKING: u64 = 4;
const MAX_PENDING: u64 = 120;
/// Longer than anything takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// The result of a round.
#[derive(Debug)]
pub struct Round {
    pub number: u64,
    pub account: Arc<Account>,
    pub stats: Stats,
    pub seen: BTreeMap<(&'static str, Seen), u64>,
    pub wrong: Vec<String>,
    report: ShutdownReport,
    peaks: Peaks,
    time: Duration,
}

/// The highest numbers that the samples have shown.
#[derive(Debug, Default, Clone, Copy)]
struct Peaks {
    pending: u64,
    running: u64,
    open: usize,
}

/// The observer. It panics sometimes, which must change nothing.
struct Watch(Arc<Account>);

impl Observer for Watch {
    fn on_response_end(&self, end: &ResponseEnd) {
        self.0.on_response_end(end);
    }

    fn on_task_start(&self, task: &TaskInfo) {
        let number = task.name().and_then(|name| name.parse::<u64>().ok());
        if number.is_some_and(|number| number % 1_000 == 0) {
            std::panic::resume_unwind(Box::new("an observer panics"));
        }
    }

    fn on_task_end(&self, report: &TaskReport) {
        self.0.on_task_end(report);
    }

    fn on_request_done(&self, report: &RequestReport) {
        self.0.on_request_done(report);
    }
}

pub async fn run(number: u64, requests: u64, seed: u64, deadline: Option<Instant>) -> Round {
    let begun = Instant::now();
    let order = order(number);
    let account = Account::new(number % 2 == 0);
    let watch = Arc::new(Watch(Arc::clone(&account)));
    let doomed = (number % 6 == 4).then(one_worker);
    let supervisor = supervisor(
        order,
        account.is_observed().then(|| Arc::clone(&watch)),
        doomed.as_ref(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (shared, mut helped) = Shared::new(Arc::clone(&account), address, order, seed, requests);
    let stopping = Arc::new(Notify::new());
    let mut server = tokio::spawn(server::serve(
        listener,
        supervisor.clone(),
        Arc::clone(&shared),
        Arc::clone(&stopping),
    ));
    let mut clients = JoinSet::new();
    let mut dice = Dice::new(seed);
    for _ in 0..24 {
        clients.spawn(http1::attack(Arc::clone(&shared), dice.fork()));
    }
    for _ in 0..32 {
        clients.spawn(http2::attack(Arc::clone(&shared), dice.fork()));
    }

    let mut wrong = Vec::new();
    let mut peaks = Peaks::default();
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shared.enough.notified() => {}
        () = over => {}
        () = sample(&supervisor, &mut peaks) => {}
        () = standstill(&shared) => {
            let tasks = supervisor.tasks();
            wrong.push(format!("no request for {PATIENCE:?}: {supervisor:?}, {tasks:?}"));
        }
    }
    if let Some(runtime) = doomed {
        // The runtime of the tasks goes down, while requests still add tasks.
        runtime.shutdown_background();
        wrong.extend(more_requests(&shared).await);
    }
    // The clients go on during the shutdown.
    let grace = Duration::from_millis(150);
    let report = if number / 2 % 2 == 0 {
        let report = supervisor.shutdown(grace).await;
        // The server still takes requests, but their tasks are refused.
        wrong.extend(more_requests(&shared).await);
        stop(&shared, &mut server, &stopping).await;
        report
    } else {
        tokio::join!(
            supervisor.shutdown(grace),
            stop(&shared, &mut server, &stopping)
        )
        .0
    };
    shared.stop.cancel();
    let stopped = async { while clients.join_next().await.is_some() {} };
    if timeout(PATIENCE, stopped).await.is_err() {
        wrong.push("clients hang".to_owned());
    }
    shared.no_more_helpers();
    if timeout(PATIENCE, helped.recv()).await.is_err() {
        wrong.push("late adds hang".to_owned());
    }
    wrong.extend(settle(&supervisor, &account).await);
    let again = supervisor.shutdown(Duration::ZERO).await;
    if format!("{again:?}") != format!("{report:?}") {
        wrong.push(format!(
            "a second shutdown reports {again:?}, the first {report:?}"
        ));
    }
    let stats = supervisor.stats();
    drop(supervisor);
    wrong.extend(free(&watch).await);
    let mut round = Round {
        number,
        account,
        stats,
        seen: shared.seen(),
        wrong,
        report,
        peaks,
        time: begun.elapsed(),
    };
    round.check();
    round
}

fn order(round: u64) -> Order {
    match round % 4 {
        0 | 1 => Order::Concurrent,
        2 => Order::Sequential,
        _ => Order::FailFast,
    }
}

fn one_worker() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Waits until no response is open and no task is left. Returns what is wrong.
async fn settle(supervisor: &Supervisor, account: &Account) -> Option<String> {
    let settled = async {
        while supervisor.open_responses() > 0
            || supervisor.stats().pending() > 0
            || account.alive() > 0
        {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, settled).await.err()?;
    let (open, stats) = (supervisor.open_responses(), supervisor.stats());
    let alive = account.alive();
    Some(format!(
        "{open} responses open, {alive} tasks alive, {stats:?}"
    ))
}

/// Waits until nothing holds the supervisor, which holds the observer. Returns what is wrong.
async fn free(watch: &Arc<Watch>) -> Option<String> {
    let freed = async {
        while Arc::strong_count(watch) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, freed).await.err()?;
    Some("something holds the supervisor: a request was leaked".to_owned())
}

fn supervisor(order: Order, watch: Option<Arc<Watch>>, runtime: Option<&Runtime>) -> Supervisor {
    let limit = |limit: u64| usize::try_from(limit).expect("it is small");
    let builder = Supervisor::builder()
        .max_concurrent(limit(MAX_CONCURRENT))
        .max_blocking(limit(MAX_BLOCKING))
        .max_pending(limit(MAX_PENDING))
        .task_timeout(Duration::from_millis(40))
        .start_within(Duration::from_millis(60))
        .abort_after(Duration::from_millis(150))
        .order(order);
    let builder = match runtime {
        Some(runtime) => builder.runtime(runtime.handle().clone()),
        None => builder,
    };
    match watch {
        Some(watch) => builder.observer(watch).build(),
        None => builder.build(),
    }
}

/// Waits until more requests were made. Returns an error if there are none.
async fn more_requests(shared: &Shared) -> Option<String> {
    let drawn = shared.drawn();
    let more = async {
        while shared.drawn() < drawn + 200 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, more)
        .await
        .err()
        .map(|_| "requests hang".to_owned())
}

/// Shuts the server down, and aborts it if it does not end.
async fn stop(shared: &Shared, server: &mut JoinHandle<()>, stopping: &Notify) {
    shared.stopping.store(true, SeqCst);
    stopping.notify_one();
    if timeout(Duration::from_millis(500), &mut *server)
        .await
        .is_err()
    {
        server.abort();
        let _ = server.await;
    }
}

async fn sample(supervisor: &Supervisor, peaks: &mut Peaks) {
    loop {
        let stats = supervisor.stats();
        peaks.pending = peaks.pending.max(stats.pending());
        peaks.running = peaks.running.max(stats.running);
        peaks.open = peaks.open.max(supervisor.open_responses());
        sleep(Duration::from_millis(2)).await;
    }
}

/// Is ready when no client has made a request for a while.
async fn standstill(shared: &Shared) {
    let mut before = None;
    while before.replace(shared.drawn()) != Some(shared.drawn()) {
        sleep(PATIENCE).await;
    }
}

impl Round {
    /// Compares what the tasks have counted with the statistics of the supervisor.
    fn check(&mut self) {
        let Self {
            account,
            stats,
            seen,
            ..
        } = &*self;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(SeqCst);
        let (returned, failed) = (
            account.end(TaskEnd::Returned),
            account.end(TaskEnd::Failed) + account.fallback(TaskEnd::Failed),
        );
        let panicked = account.end(TaskEnd::Panicked)
            + account.fallback(TaskEnd::Panicked)
            + count(&account.condition_panics);
        // Most cancelled functions had timed out before. A shutdown can cancel one that then
        // succeeds. Only observed rounds have them.
        let cancelled_in_time = account
            .pairs()
            .get(&(TaskEnd::Cancelled, "succeeded", true))
            .copied()
            .unwrap_or_default();
        let ran = [
            TaskEnd::DroppedUnfinished,
            TaskEnd::Returned,
            TaskEnd::Failed,
            TaskEnd::Panicked,
            TaskEnd::Cancelled,
        ];
        let started: u64 = ran.into_iter().map(|end| account.end(end)).sum();
        // A shutdown does not wait for the blocking functions that run, of which there are at most
        // `MAX_BLOCKING`.
        let most = |figure: u64, own: u64| figure <= own && own <= figure + MAX_BLOCKING;
        let [concurrent, blocking] = account.most_running();
        let checks = [
            (
                "every task has one state or outcome",
                stats.added() + stats.refused == count(&account.created),
            ),
            ("nothing is pending", stats.pending() == 0),
            ("no task started twice", account.started_twice() == 0),
            ("each start has one end", started == count(&account.started)),
            ("every task was dropped", account.alive() == 0),
            ("refused", stats.refused == count(&account.refused)),
            (
                "succeeded",
                most(stats.succeeded, returned + cancelled_in_time),
            ),
            ("failed", most(stats.failed, failed)),
            ("panicked", most(stats.panicked, panicked)),
            (
                "fell back",
                stats.fell_back == account.fallback(TaskEnd::Returned),
            ),
            (
                "the limit of what runs at once",
                concurrent <= MAX_CONCURRENT && blocking <= MAX_BLOCKING,
            ),
        ];
        let mut wrong: Vec<_> = checks
            .iter()
            .filter(|(_, holds)| !holds)
            .map(|(what, _)| format!("{what}: {self}"))
            .collect();
        wrong.extend(account.disagreements());
        for ((protocol, seen), count) in seen {
            if matches!(seen, Seen::Wrong | Seen::Stuck) {
                wrong.push(format!("{count} responses over {protocol} were {seen:?}"));
            }
        }
        self.wrong.extend(wrong);
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            account,
            report,
            peaks,
            time,
            ..
        } = self;
        let [concurrent, blocking] = account.most_running();
        write!(
            f,
            "round {number}, {}: {} requests, {} tasks in {:.1} s; at most {} open, {} pending, {} running (by own count {concurrent}, and {blocking} that block); \
             shutdown: {} finished, {} cancelled, {} abandoned, {} open",
            if account.is_observed() {
                "observed"
            } else {
                "not observed"
            },
            account.calls.load(SeqCst),
            account.created.load(SeqCst),
            time.as_secs_f64(),
            peaks.open,
            peaks.pending,
            peaks.running,
            report.finished(),
            report.cancelled(),
            report.abandoned().len(),
            report.open_responses(),
        )
    }
}
