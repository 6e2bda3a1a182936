//! Engines that are down, slow, locked or full, behind real servers: each request is answered, and what was answered with a
//! success is done. And workers in processes of their own, which wait for an engine that is away.
//!
//! Those with PostgreSQL are skipped where there is none, unless `TOWER_BACKGROUND_NO_SKIP` is set.

#[path = "support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    error::Error,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::Path, response::IntoResponse, routing::get};
use futures_util::future::join_all;
use http::StatusCode;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use support::{
    Postgres, Server, Witness,
    jobs::{Jobs, Working},
    soon, start_with, until,
};
use tokio::{
    process::Command,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tower::{ServiceBuilder, service_fn};
use tower_background::{
    BackgroundLayer, BackgroundTasks, HandOff, HandOffError, JobStore, Observer, PostgresStore, SqliteStore, Supervisor,
    TaskReport,
};

/// In which held jobs start by themselves, if their release could not be told.
const GRACE: Duration = Duration::from_secs(1);

const MODES: [&str; 2] = ["durable", "held"];

/// A server whose requests hand jobs off, and the jobs that it has promised by a success.
struct Front {
    server: Server,
    asked: AtomicUsize,
    promised: Mutex<BTreeSet<String>>,
}

impl Front {
    async fn of<S: JobStore>(queue: &Jobs<S>, limit: Duration) -> Self {
        Self::new(HandOff::durable(queue.clone()), HandOff::held(queue.held(GRACE)), limit).await
    }

    async fn new(durable: HandOff<String>, held: HandOff<String>, limit: Duration) -> Self {
        let handler = async move |Path((mode, number)): Path<(String, usize)>, tasks: BackgroundTasks| {
            let hand_off = if mode == "held" { held } else { durable };
            tasks.add(hand_off.job(job(number)).timeout(limit));
            "welcome"
        };
        let unavailable = |error: HandOffError| {
            let source = error.source().map(ToString::to_string);
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error} ({})", source.unwrap_or_default())).into_response()
        };
        let supervisor = Supervisor::new();
        let layer = BackgroundLayer::with(supervisor.clone()).hand_off(unavailable);
        let app = Router::new().route("/{mode}/{number}", get(handler)).layer(layer);
        let server = Server::serve(app, supervisor, Witness::new()).await;
        Self { server, asked: AtomicUsize::new(0), promised: Mutex::default() }
    }

    /// Asks for one more job. It is answered, whatever the engine does.
    async fn ask(&self, mode: &str) -> (StatusCode, String) {
        let number = self.asked.fetch_add(1, Relaxed);
        let (status, text) = self.server.get(&format!("/{mode}/{number}")).await;
        if status == StatusCode::OK {
            self.promised.lock().unwrap().insert(job(number));
        } else {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
        }
        (status, text)
    }

    async fn succeeds(&self, mode: &str) {
        let (status, text) = self.ask(mode).await;
        assert_eq!(status, StatusCode::OK, "{text}");
    }

    /// Asks in vain, and returns why.
    async fn fails(&self, mode: &str) -> String {
        let (status, text) = self.ask(mode).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        text
    }

    /// Waits until so many requests wait for the engine.
    async fn waiting(&self, requests: u64) {
        while self.server.supervisor.stats().running < requests {
            tokio::task::yield_now().await;
        }
    }

    /// Has a worker run the queue, until all is done that was promised.
    async fn keeps<S: JobStore>(&self, queue: &Jobs<S>) {
        self.server.supervisor.idle().await;
        let mut promised = std::mem::take(&mut *self.promised.lock().unwrap());
        assert!(!promised.is_empty());
        let mut working = Working::idle(queue);
        while !promised.is_empty() {
            promised.remove(working.next().await.args());
        }
        working.stop().await;
    }
}

/// A server whose requests hand jobs off after their responses, and what became of each.
struct Lossy {
    server: Server,
    /// Lets a write begin.
    go: Arc<Semaphore>,
    ends: mpsc::UnboundedReceiver<String>,
}

struct Ends(mpsc::UnboundedSender<String>);

impl Observer for Ends {
    fn task_ended(&self, report: &TaskReport) {
        drop(self.0.send(format!("{}: {:?}", report.name().unwrap_or_default(), report.outcome())));
    }
}

impl Lossy {
    async fn of<S: JobStore>(queue: &Jobs<S>, limit: Duration) -> Self {
        let (queue, go) = (queue.clone(), Arc::new(Semaphore::new(0)));
        let gate = Arc::clone(&go);
        let hand_off = HandOff::lossy(service_fn(move |job: String| {
            let (queue, gate) = (queue.clone(), Arc::clone(&gate));
            async move {
                gate.acquire().await?.forget();
                queue.push(job).await
            }
        }));
        let handler = async move |Path(number): Path<usize>, tasks: BackgroundTasks| {
            tasks.add(hand_off.job(job(number)).named("mail").timeout(limit));
            "welcome"
        };
        let (tell, ends) = mpsc::unbounded_channel();
        let supervisor = Supervisor::builder().observer(Ends(tell)).build();
        let app = Router::new().route("/{number}", get(handler)).layer(BackgroundLayer::with(supervisor.clone()));
        let server = Server::serve(app, supervisor, Witness::new()).await;
        Self { server, go, ends }
    }

    /// So many clients at once have their whole answer, a success, before any job began to be written. Then all are written.
    async fn ask(&self, requests: usize) {
        let ask = async |number| {
            let (status, text) = soon(self.server.get(&format!("/{number}"))).await;
            assert_eq!((status, &*text), (StatusCode::OK, "welcome"));
        };
        join_all((0..requests).map(ask)).await;
        self.go.add_permits(requests);
    }

    /// How the next of them came to their ends; then nothing is left to be done.
    async fn ends(&mut self, requests: usize) -> Vec<String> {
        let mut ends = Vec::new();
        for _ in 0..requests {
            ends.push(soon(self.ends.recv()).await.expect("the supervisor has a sender"));
        }
        soon(self.server.supervisor.idle()).await;
        assert!(self.ends.is_empty());
        ends
    }

    /// Asks for jobs, each of which is to fail with this text.
    async fn fails(&mut self, requests: usize, why: &str) {
        self.ask(requests).await;
        for end in self.ends(requests).await {
            assert!(end.starts_with("mail: Failed(") && end.contains(why), "{end}");
        }
    }

    /// Asks for jobs, each of which is to be written.
    async fn succeeds(&mut self, requests: usize) {
        self.ask(requests).await;
        assert_eq!(self.ends(requests).await, vec!["mail: HandedOff"; requests]);
    }

    /// How many have failed, have run out of time, and were written.
    fn figures(&self) -> (u64, u64, u64) {
        let stats = self.server.supervisor.stats();
        (stats.failed, stats.timed_out, stats.handed_off)
    }
}

/// Some pages of a file hold a few of them.
fn job(number: usize) -> String {
    format!("{number:.<2000}")
}

async fn postgres() -> Option<(Postgres, Jobs<PostgresStore>)> {
    let server = Postgres::start().await?;
    let store = PostgresStore::new(server.pool().await);
    store.setup().await.expect("the tables can be made");
    let queue = store.queue("jobs");
    Some((server, queue))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_down_under_load_and_comes_back() {
    let Some((mut engine, queue)) = postgres().await else { return };
    // More than its pool takes to give up.
    let front = Arc::new(Front::of(&queue, Duration::from_secs(5)).await);
    for mode in MODES {
        front.succeeds(mode).await;
    }

    let (mut clients, (tell, mut refused)) = (JoinSet::new(), mpsc::unbounded_channel());
    for client in 0..4 {
        let (front, tell) = (Arc::clone(&front), tell.clone());
        clients.spawn(async move {
            let mode = MODES[client % 2];
            while front.ask(mode).await.0 == StatusCode::OK {}
            drop(tell);
            while front.ask(mode).await.0 != StatusCode::OK {}
        });
    }
    drop(tell);
    engine.down();
    // Each client is refused.
    assert_eq!(soon(refused.recv()).await, None::<()>);
    for mode in MODES {
        front.fails(mode).await;
    }
    engine.up().await;
    soon(clients.join_all()).await;
    for mode in MODES {
        front.succeeds(mode).await;
    }
    front.keeps(&queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_freezes_and_thaws() {
    let Some((engine, queue)) = postgres().await else { return };
    let front = Arc::new(Front::of(&queue, Duration::from_millis(300)).await);
    for mode in MODES {
        front.succeeds(mode).await;
    }

    let frozen = engine.freeze().await;
    // More at once than there are connections, and then once more.
    for _ in 0..2 {
        let mut clients = JoinSet::new();
        for client in 0..12 {
            let front = Arc::clone(&front);
            clients.spawn(async move { front.fails(MODES[client % 2]).await });
        }
        for text in soon(clients.join_all()).await {
            assert!(text.contains("timed out"), "{text}");
        }
    }
    drop(frozen);

    // It may be late with what it was asked before.
    soon(async { while front.ask("durable").await.0 != StatusCode::OK {} }).await;
    for mode in MODES {
        front.succeeds(mode).await;
    }
    front.keeps(&queue).await;
}

/// A file of the test's own, in a folder that goes when this does.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("broken-{}-{}", std::process::id(), FILES.fetch_add(1, Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("jobs.db")
    }

    async fn store(&self) -> SqliteStore {
        SqliteStore::open(self.path()).await.expect("the file can be opened")
    }

    async fn queue(&self) -> Jobs<SqliteStore> {
        self.store().await.queue("jobs")
    }

    /// Somebody else, who writes and does not come to an end.
    async fn lock(&self) -> SqliteConnection {
        let options = SqliteStore::options(self.path());
        let mut other = SqliteConnection::connect_with(&options).await.expect("the file is there");
        sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.expect("nobody is writing");
        other
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn unlock(other: SqliteConnection) {
    other.close().await.expect("the file is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_locked_for_longer_than_a_connection_waits() {
    let file = File::new();
    let queue = file.queue().await;
    let impatient = SqliteStore::options(file.path()).busy_timeout(Duration::from_millis(50));
    let impatient = SqliteStore::new(SqlitePool::connect_with(impatient).await.expect("the file is there"));
    let front = Front::of(&impatient.queue("jobs"), Duration::from_secs(20)).await;

    let lock = file.lock().await;
    for mode in MODES {
        let why = front.fails(mode).await;
        assert!(why.contains("database is locked"), "{why}");
    }
    unlock(lock).await;
    for mode in MODES {
        front.succeeds(mode).await;
    }
    front.keeps(&queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_locked_for_less() {
    let file = File::new();
    let queue = file.queue().await;
    let front = Arc::new(Front::of(&queue, Duration::from_secs(20)).await);
    let lock = file.lock().await;
    let mut clients = JoinSet::new();
    for mode in MODES {
        let front = Arc::clone(&front);
        clients.spawn(async move { front.succeeds(mode).await });
    }
    front.waiting(2).await;
    unlock(lock).await;
    soon(clients.join_all()).await;
    front.keeps(&queue).await;
}

/// The connections wait on for the file, though nobody waits for them any more; they are of use again when it is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_locked_for_longer_than_a_request_waits() {
    let file = File::new();
    let queue = file.queue().await;
    let front = Arc::new(Front::of(&queue, Duration::from_millis(100)).await);
    let lock = file.lock().await;
    for _ in 0..2 {
        let mut clients = JoinSet::new();
        for client in 0..12 {
            let front = Arc::clone(&front);
            clients.spawn(async move { front.fails(MODES[client % 2]).await });
        }
        for text in soon(clients.join_all()).await {
            assert!(text.contains("timed out"), "{text}");
        }
    }
    unlock(lock).await;
    soon(async { while front.ask("durable").await.0 != StatusCode::OK {} }).await;
    front.keeps(&queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_full() {
    let file = File::new();
    let store = file.store().await;
    let queue = store.queue("jobs");
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(store.pool()).await.expect("it is a pragma");
    let small = SqliteStore::options(file.path()).pragma("max_page_count", (pages + 10).to_string());
    let small = SqliteStore::new(SqlitePool::connect_with(small).await.expect("the file is there"));
    let front = Front::of(&small.queue("jobs"), Duration::from_secs(20)).await;

    let mut why = String::new();
    for mode in MODES.into_iter().cycle().take(100) {
        let (status, text) = front.ask(mode).await;
        if status != StatusCode::OK {
            why = text;
            break;
        }
    }
    assert!(why.contains("full"), "{why}");
    for mode in MODES {
        front.fails(mode).await;
    }
    front.keeps(&queue).await;

    sqlx::query("DELETE FROM Jobs").execute(store.pool()).await.expect("the file is there");
    for mode in MODES {
        front.succeeds(mode).await;
    }
    front.keeps(&queue).await;
}

/// SQLite undoes a transaction by itself then, and the connection does not note it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_spoils_no_transaction_that_comes_after() {
    let file = File::new();
    let store = file.store().await;
    let queue: Jobs<_> = store.queue("jobs");
    let mut connections = Vec::new();
    for _ in 0..store.pool().options().get_max_connections() {
        connections.push(store.pool().acquire().await.expect("there is one more"));
    }
    for connection in &mut connections {
        // As many as there are.
        sqlx::query("PRAGMA max_page_count = 1").execute(&mut **connection).await.expect("it is a pragma");
    }
    drop(connections);

    let mut transactions = Vec::new();
    for _ in 0..store.pool().options().get_max_connections() {
        transactions.push(store.pool().begin().await.expect("there is one more"));
    }
    for mut transaction in transactions {
        let mut pushed = Ok(Vec::new());
        for number in 0..100 {
            pushed = queue.push_in(&mut transaction, job(number)).await;
            if pushed.is_err() {
                break;
            }
        }
        let error = pushed.expect_err("there is no room");
        assert!(error.to_string().contains("full"), "{error}");
    }
    for _ in 0..2 * store.pool().options().get_max_connections() {
        let transaction = store.pool().begin_with("BEGIN IMMEDIATE").await.expect("nobody is in a transaction");
        transaction.rollback().await.expect("it can be undone");
    }
}

/// With tower's layers in front, a client is refused at once where the engine has enough to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_shed() {
    let file = File::new();
    let queue = file.queue().await;
    let few = ServiceBuilder::new().load_shed().concurrency_limit(1);
    let durable = HandOff::durable(few.clone().service(queue.clone()));
    let front = Arc::new(Front::new(durable, HandOff::held(few.service(queue.held(GRACE))), Duration::from_secs(20)).await);
    for mode in MODES {
        let lock = file.lock().await;
        let mut clients = JoinSet::new();
        for _ in 0..5 {
            let front = Arc::clone(&front);
            clients.spawn(async move { front.ask(mode).await });
        }
        for _ in 0..4 {
            let answered = soon(clients.join_next()).await.expect("there are five");
            let (status, text) = answered.expect("none panics");
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.contains("overloaded"), "{text}");
        }
        unlock(lock).await;
        let answered = soon(clients.join_next()).await.expect("there is one more").expect("it does not panic");
        assert_eq!(answered.0, StatusCode::OK, "{}", answered.1);
    }
    front.keeps(&queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lossy_fails_after_the_response_where_postgres_is_away() {
    let Some((mut engine, queue)) = postgres().await else { return };
    let mut lossy = Lossy::of(&queue, Duration::from_secs(20)).await;
    lossy.succeeds(2).await;
    engine.down();
    // More at once than there are connections. Which error it is depends on how far a connection came.
    lossy.fails(12, "").await;
    assert_eq!(lossy.figures(), (12, 0, 2));
    engine.up().await;
    lossy.succeeds(2).await;

    let mut hasty = Lossy::of(&queue, Duration::from_millis(300)).await;
    let frozen = engine.freeze().await;
    hasty.ask(12).await;
    assert_eq!(hasty.ends(12).await, ["mail: TimedOut"; 12]);
    assert_eq!(hasty.figures(), (0, 12, 0));
    drop(frozen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lossy_fails_after_the_response_where_sqlite_is_locked() {
    let file = File::new();
    let queue = file.queue().await;
    let impatient = SqliteStore::options(file.path()).busy_timeout(Duration::from_millis(50));
    let impatient = SqliteStore::new(SqlitePool::connect_with(impatient).await.expect("the file is there"));
    let mut hasty = Lossy::of(&impatient.queue("jobs"), Duration::from_secs(20)).await;
    let mut patient = Lossy::of(&queue, Duration::from_secs(20)).await;

    let lock = file.lock().await;
    hasty.fails(3, "database is locked").await;
    assert_eq!(hasty.figures(), (3, 0, 0));
    // For others it is only slow.
    patient.ask(3).await;
    until(async || patient.server.supervisor.stats().running == 3).await;
    unlock(lock).await;
    assert_eq!(patient.ends(3).await, ["mail: HandedOff"; 3]);
    hasty.succeeds(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lossy_fails_after_the_response_where_sqlite_is_full() {
    let file = File::new();
    let store = file.store().await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(store.pool()).await.expect("it is a pragma");
    let small = SqliteStore::options(file.path()).pragma("max_page_count", pages.to_string());
    let small = SqliteStore::new(SqlitePool::connect_with(small).await.expect("the file is there"));
    let mut lossy = Lossy::of(&small.queue("jobs"), Duration::from_secs(20)).await;
    // What room there is in the pages that it has is used up by some.
    lossy.ask(20).await;
    let ends = lossy.ends(20).await;
    let (full, written): (Vec<_>, Vec<_>) = ends.iter().partition(|end| end.starts_with("mail: Failed(") && end.contains("full"));
    assert!(written.iter().all(|end| **end == "mail: HandedOff"), "{written:?}");
    assert!(full.len() >= 10, "{ends:?}");
    lossy.fails(2, "full").await;
    assert_eq!(lossy.figures(), (full.len() as u64 + 2, 0, written.len() as u64));

    sqlx::query("DELETE FROM Jobs").execute(store.pool()).await.expect("the file is there");
    lossy.succeeds(2).await;
}

/// A worker in a process of its own has its database away for a minute. What was pushed before, what falls due meanwhile, and what
/// is pushed after that is done, each at the first attempt.
async fn outlives_a_minute<S: JobStore>(queue: &Jobs<S>, example: &str, feature: &str, database: &str, away: impl AsyncFnOnce()) {
    // Each job takes two seconds, so that the first ends while the database is away.
    let (mut child, first, mut lines) = start_with(example, feature, &[database, "600", "2000", "jobs"]).await;
    assert_eq!(first, "working");
    let due = queue.held(Duration::from_secs(30)).push("due".to_owned()).await.expect("it is written");
    drop(due);
    queue.push("before".to_owned()).await.expect("it is written");
    let begun = soon(lines.next_line()).await.expect("it prints text").expect("it goes on");
    assert!(begun.starts_with("begun ") && begun.ends_with(" 1 before"), "{begun}");

    away().await;
    assert!(child.try_wait().expect("it can be asked").is_none(), "it has not ended");
    queue.push("after".to_owned()).await.expect("it is written");
    let mut done = BTreeSet::new();
    while done.len() < 3 {
        let line = soon(lines.next_line()).await.expect("it prints text").expect("it goes on");
        if let Some(job) = line.strip_prefix("done ") {
            done.extend(job.split_once(' ').map(|(_id, job)| job.to_owned()));
        }
    }
    assert_eq!(done.iter().collect::<Vec<_>>(), ["1 after", "1 before", "1 due"]);
    let id = child.id().expect("it has not ended").to_string();
    assert!(Command::new("kill").arg(id).status().await.expect("there is kill").success());
    assert!(soon(child.wait()).await.expect("it ends").success(), "at SIGTERM it stops as it should");
}

/// Here the time is the subject: none of the limits and pauses on the way may come to an end within it. It costs the other tests
/// nothing, as nearly all of it is idle.
async fn a_minute() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

async fn a_minute_without_postgres() {
    let Some((mut engine, queue)) = postgres().await else { return };
    let url = engine.url();
    let away = async || {
        engine.down();
        a_minute().await;
        engine.up().await;
    };
    outlives_a_minute(&queue, "queue_worker_postgres", "postgres", &url, away).await;
    let done = "SELECT count(*) FROM apalis.jobs WHERE status = 'Done' AND attempts = 1";
    let pool = engine.pool().await;
    assert_eq!(sqlx::query_scalar::<_, i64>(done).fetch_one(&pool).await.expect("there is a table"), 3);
}

async fn a_minute_without_sqlite() {
    let file = File::new();
    let store = file.store().await;
    let path = file.path();
    let away = async || {
        // It is another process than the worker's that has the lock.
        let lock = file.lock().await;
        a_minute().await;
        unlock(lock).await;
    };
    let path = path.to_str().expect("the path is text");
    outlives_a_minute(&store.queue("jobs"), "queue_worker_sqlite", "sqlite", path, away).await;
    let done = "SELECT count(*) FROM Jobs WHERE status = 'Done' AND attempts = 1";
    assert_eq!(sqlx::query_scalar::<_, i64>(done).fetch_one(store.pool()).await.expect("there is a table"), 3);
}

/// One test, so that both wait at once and other tests have the threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_outlive_a_minute_without_their_database() {
    tokio::join!(a_minute_without_postgres(), a_minute_without_sqlite());
}
