//! One round: a supervisor and a server, from their making to their end under load.

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
use tower_background::{BatchReport, Observer, Order, ResponseEnd, RunningTask, ShutdownReport, Stats, Supervisor, TaskReport};

use crate::{
    books::{Books, Fate},
    dice::Dice,
    field::{Field, Seen},
    http1, http2, server,
};

const MAX_CONCURRENT: u64 = 24;
const MAX_BLOCKING: u64 = 4;
const MAX_PENDING: u64 = 120;
/// More than anything takes that comes to an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a round has come to.
#[derive(Debug)]
pub struct Round {
    pub number: u64,
    pub books: Arc<Books>,
    pub stats: Stats,
    pub seen: BTreeMap<(&'static str, Seen), u64>,
    pub wrong: Vec<String>,
    report: ShutdownReport,
    peaks: Peaks,
    time: Duration,
}

/// What was most at any moment at which one looked.
#[derive(Debug, Default, Clone, Copy)]
struct Peaks {
    pending: u64,
    running: u64,
    open: usize,
}

/// Told of everything, for the books; panics at times, which must disturb nothing.
struct Watch(Arc<Books>);

impl Observer for Watch {
    fn response_ended(&self, end: &ResponseEnd) {
        self.0.response_ended(end);
    }

    fn task_started(&self, task: &RunningTask) {
        let number = task.name().and_then(|name| name.parse::<u64>().ok());
        if number.is_some_and(|number| number % 1_000 == 0) {
            std::panic::resume_unwind(Box::new("an observer panics"));
        }
    }

    fn task_ended(&self, report: &TaskReport) {
        self.0.task_ended(report);
    }

    fn batch_ended(&self, report: &BatchReport) {
        self.0.batch_ended(report);
    }
}

pub async fn run(number: u64, requests: u64, seed: u64, deadline: Option<Instant>) -> Round {
    let begun = Instant::now();
    let order = match number % 4 {
        0 | 1 => Order::Concurrent,
        2 => Order::Sequential,
        _ => Order::FailFast,
    };
    let books = Books::new(number % 2 == 0);
    let watch = Arc::new(Watch(Arc::clone(&books)));
    let doomed = (number % 6 == 4)
        .then(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));
    let supervisor = supervisor(order, books.is_observed().then(|| Arc::clone(&watch)), doomed.as_ref());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (field, mut helped) = Field::new(Arc::clone(&books), address, order, seed, requests);
    let stopping = Arc::new(Notify::new());
    let mut server = tokio::spawn(server::serve(listener, supervisor.clone(), Arc::clone(&field), Arc::clone(&stopping)));
    let mut clients = JoinSet::new();
    let mut dice = Dice::new(seed);
    for _ in 0..24 {
        clients.spawn(http1::attack(Arc::clone(&field), dice.fork()));
    }
    for _ in 0..32 {
        clients.spawn(http2::attack(Arc::clone(&field), dice.fork()));
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
        () = field.enough.notified() => {}
        () = over => {}
        () = sample(&supervisor, &mut peaks) => {}
        () = standstill(&field) => {
            let tasks = supervisor.running();
            wrong.push(format!("no request for {PATIENCE:?}: {supervisor:?}, {tasks:?}"));
        }
    }
    if let Some(runtime) = doomed {
        // The tasks' runtime goes down under them, while requests come and leave more.
        runtime.shutdown_background();
        wrong.extend(more_requests(&field).await);
    }
    // The shutdown comes in the middle of the load: the clients go on.
    let grace = Duration::from_millis(150);
    let report = if number / 2 % 2 == 0 {
        let report = supervisor.shutdown(grace).await;
        // The server still takes requests, whose tasks are refused now.
        wrong.extend(more_requests(&field).await);
        stop(&field, &mut server, &stopping).await;
        report
    } else {
        tokio::join!(supervisor.shutdown(grace), stop(&field, &mut server, &stopping)).0
    };
    field.stop.cancel();
    let stopped = async { while clients.join_next().await.is_some() {} };
    if timeout(PATIENCE, stopped).await.is_err() {
        wrong.push("clients hang".to_owned());
    }
    field.no_more_helpers();
    if timeout(PATIENCE, helped.recv()).await.is_err() {
        wrong.push("late adds hang".to_owned());
    }
    let settled = async {
        while supervisor.open_responses() > 0 || supervisor.stats().pending() > 0 || books.alive() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(PATIENCE, settled).await.is_err() {
        let (open, stats) = (supervisor.open_responses(), supervisor.stats());
        wrong.push(format!("{open} responses open, {} tasks alive, {stats:?}", books.alive()));
    }
    let again = supervisor.shutdown(Duration::ZERO).await;
    if format!("{again:?}") != format!("{report:?}") {
        wrong.push(format!("a second shutdown tells {again:?}, the first {report:?}"));
    }
    let stats = supervisor.stats();
    drop(supervisor);
    let freed = async {
        while Arc::strong_count(&watch) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(PATIENCE, freed).await.is_err() {
        wrong.push("something holds the supervisor: a request's registry has stayed".to_owned());
    }
    let mut round = Round { number, books, stats, seen: field.seen(), wrong, report, peaks, time: begun.elapsed() };
    round.check();
    round
}

fn supervisor(order: Order, watch: Option<Arc<Watch>>, runtime: Option<&Runtime>) -> Supervisor {
    let limit = |limit: u64| usize::try_from(limit).expect("it is small");
    let builder = Supervisor::builder()
        .max_concurrent(limit(MAX_CONCURRENT))
        .max_blocking(limit(MAX_BLOCKING))
        .max_pending(limit(MAX_PENDING))
        .task_timeout(Duration::from_millis(40))
        .release_after(Duration::from_millis(60))
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

/// Waits until a few more requests were made. Something is wrong if none are.
async fn more_requests(field: &Field) -> Option<String> {
    let drawn = field.drawn();
    let more = async {
        while field.drawn() < drawn + 200 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, more).await.err().map(|_| "requests hang".to_owned())
}

/// Lets the server end, and cuts off what does not.
async fn stop(field: &Field, server: &mut JoinHandle<()>, stopping: &Notify) {
    field.stopping.store(true, SeqCst);
    stopping.notify_one();
    if timeout(Duration::from_millis(500), &mut *server).await.is_err() {
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

/// Ready when no client has come to a next request for a while: something holds them all up.
async fn standstill(field: &Field) {
    let mut before = None;
    while before.replace(field.drawn()) != Some(field.drawn()) {
        sleep(PATIENCE).await;
    }
}

impl Round {
    /// Holds the two accounts against each other.
    fn check(&mut self) {
        let Self { books, stats, seen, .. } = &*self;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(SeqCst);
        let (returned, failed) = (books.fate(Fate::Returned), books.fate(Fate::Failed));
        let panicked = books.fate(Fate::Panicked) + count(&books.condition_panics);
        let told = books.fate(Fate::Told);
        // Most that were told had timed out before; one that a shutdown told came to its end in time. Only watched rounds have them.
        let told_in_time = books.pairs().get(&(Fate::Told, "succeeded", true)).copied().unwrap_or_default();
        let started = books.fate(Fate::DroppedUnfinished) + returned + failed + books.fate(Fate::Panicked) + told;
        // A shutdown gives up functions that block, no more than there are places for them, and these still come to their end.
        let most = |figure: u64, own: u64| figure <= own && own <= figure + MAX_BLOCKING;
        let [concurrent, blocking] = books.most_running();
        let checks = [
            ("every task is in one figure", stats.added() == count(&books.created)),
            ("nothing is pending", stats.pending() == 0),
            ("no task started twice", books.started_twice() == 0),
            ("each start has one end", started == count(&books.started)),
            ("every task was dropped", books.alive() == 0),
            ("refused", stats.refused == count(&books.refused)),
            ("succeeded", most(stats.succeeded, returned + told_in_time)),
            ("failed", most(stats.failed, failed)),
            ("panicked", most(stats.panicked, panicked)),
            ("the limit of what runs at once", concurrent <= MAX_CONCURRENT && blocking <= MAX_BLOCKING),
        ];
        let mut wrong: Vec<_> = checks.iter().filter(|(_, holds)| !holds).map(|(what, _)| format!("{what}: {self}")).collect();
        wrong.extend(books.disagreements());
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
        let Self { number, books, report, peaks, time, .. } = self;
        let [concurrent, blocking] = books.most_running();
        write!(
            f,
            "round {number}, {}: {} requests, {} tasks in {:.1} s; at most {} open, {} pending, {} running (by own count {concurrent} and {blocking} that block); \
             shutdown: {} finished, {} cancelled, {} abandoned, {} open",
            if books.is_observed() { "watched" } else { "unwatched" },
            books.calls.load(SeqCst),
            books.created.load(SeqCst),
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
