//! Jobs in a file of SQLite's: what is on disk when, who runs it, and what becomes of workers that meet what they should not.

#[path = "support/mod.rs"]
mod support;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use apalis_core::worker::{builder::WorkerBuilder, context::WorkerContext};
use apalis_sqlite::{Config, SqliteStorage};
use sqlx::{
    Connection, Row, SqlStr, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use support::{
    Events,
    jobs::{self, LONG, Working, worker},
    soon, start_with,
};
use tokio::process::{Child, Command};
use tower_background::{ApalisQueue, BoxError, HeldJobs, HeldQueue, JobQueue, Receipt, SqliteStore};
use tracing::level_filters::LevelFilter;

/// A file of the test's own, in a folder that goes when this does.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let name = format!("queue-{}-{}", std::process::id(), FILES.fetch_add(1, Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("jobs.db")
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.path()).await.expect("the file can be opened")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The status and the attempts of each job, by its arguments.
async fn states(pool: &SqlitePool) -> Vec<(String, String, i64)> {
    let rows = sqlx::query("SELECT CAST(job AS TEXT), status, attempts FROM Jobs ORDER BY 1").fetch_all(pool).await;
    rows.expect("there is a table").iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// The same test that other engines have.
macro_rules! the_same {
    ($($test:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let file = File::new();
            let store = file.open().await;
            jobs::$test(&store.queue("jobs")).await;
        }
    )* };
}

the_same! {
    what_is_pushed_runs_once,
    held_jobs_wait_for_their_release,
    held_jobs_run_when_their_grace_is_over,
    a_release_keeps_to_a_start_time,
    a_key_is_written_once,
    what_fails_is_tried_again_and_stops_nobody,
    jobs_of_the_dead_are_taken_up,
    a_worker_that_is_stopped_ends_what_it_has_begun,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_worker_keeps_its_jobs() {
    let file = File::new();
    let store = file.open().await;
    let seen = async || {
        let seen = sqlx::query_scalar("SELECT last_seen FROM Workers").fetch_all(store.pool()).await;
        seen.expect("there is a table")
    };
    jobs::a_living_worker_keeps_its_jobs(&store.queue("jobs"), seen).await;
}

/// What a layer asks of a destination that all requests share.
#[test]
fn destinations_may_be_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn receipt<T: Receipt>() {}
    shared::<JobQueue<SqliteStore, String>>();
    shared::<HeldQueue<SqliteStore, String>>();
    shared::<ApalisQueue<SqliteStorage<String>, String>>();
    receipt::<Vec<HeldJobs<SqliteStore>>>();
}

#[tokio::test]
async fn what_is_committed_is_on_disk_on_every_connection() {
    let file = File::new();
    let store = file.open().await;
    let mut connections = Vec::new();
    for _ in 0..store.pool().options().get_max_connections() {
        connections.push(store.pool().acquire().await.expect("there is one more"));
    }
    assert!(connections.len() > 1);
    for connection in &mut connections {
        let mut pragma = async |name| {
            let row = sqlx::query(name).fetch_one(&mut **connection).await.expect("it is a pragma");
            row.try_get_unchecked::<String, _>(0).unwrap_or_else(|_| row.get_unchecked::<i64, _>(0).to_string())
        };
        assert_eq!(pragma("PRAGMA synchronous").await, "2", "FULL");
        assert_eq!(pragma("PRAGMA journal_mode").await, "wal");
        assert_eq!(pragma("PRAGMA foreign_keys").await, "1");
        assert_eq!(pragma("PRAGMA busy_timeout").await, "30000");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_start_at_once() {
    for _ in 0..5 {
        let file = File::new();
        let opened: Vec<_> = (0..8)
            .map(|_| {
                let path = file.path();
                tokio::spawn(async move { SqliteStore::open(path).await })
            })
            .collect();
        for opened in opened {
            let store = opened.await.expect("none panics").expect("none fails");
            store.queue("jobs").push("job".to_owned()).await.expect("it is written");
        }
    }
}

#[tokio::test]
async fn jobs_share_the_fate_of_their_transaction() {
    let file = File::new();
    let store = file.open().await;
    let queue: JobQueue<_, String> = store.queue("jobs");

    let mut transaction = store.pool().begin().await.expect("the file is there");
    let plain = queue.push_in(&mut transaction, "plain".to_owned()).await.expect("it is written");
    let lost = queue.held(LONG).push_in(&mut transaction, "held".to_owned()).await.expect("it is written");
    assert_eq!((plain.len(), lost.ids().len()), (1, 1));
    transaction.rollback().await.expect("it can be undone");
    lost.release().await.expect("that there is nothing to release is no error");
    assert_eq!(states(store.pool()).await, []);

    let mut transaction = store.pool().begin().await.expect("the file is there");
    let held = queue.held(LONG).push_in(&mut transaction, "held".to_owned()).await.expect("it is written");
    transaction.commit().await.expect("it can be kept");
    let mut working = Working::idle(&queue);
    held.release().await.expect("the file is there");
    assert_eq!(working.next().await.args(), "held");
    working.stop().await;
}

#[tokio::test]
async fn a_list_is_written_as_one() {
    let file = File::new();
    let store = file.open().await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    let id = queue.push("there".to_owned()).await.expect("it is written").remove(0);
    let again = apalis_core::task::builder::TaskBuilder::new("again".to_owned()).task_id(id).build();
    let new = apalis_core::task::builder::TaskBuilder::new("new".to_owned()).build();
    queue.push(vec![new, again]).await.expect_err("there is a job with this id");
    assert_eq!(states(store.pool()).await, [("\"there\"".to_owned(), "Pending".to_owned(), 0)]);
}

/// Rows that no job of this queue should look like, and that end every worker of apalis' that meets them.
#[tokio::test]
async fn poison_is_put_aside() {
    let file = File::new();
    let store = file.open().await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    let insert = "INSERT INTO Jobs (job, id, job_type, status, priority) VALUES (?1, ?2, 'jobs', 'Pending', 9)";
    for (job, id) in [(&b"{no json"[..], "01JZZZZZZZZZZZZZZZZZZZZZZZ"), (b"\"no ulid\"", "no ulid"), (b"5", "5")] {
        sqlx::query(insert).bind(job).bind(id).execute(store.pool()).await.expect("nothing forbids it");
    }
    queue.push("good".to_owned()).await.expect("it is written");
    let mut working = Working::idle(&queue);
    assert_eq!(working.texts(2).await, ["good", "no ulid"]);
    working.stop().await;
    let states = states(store.pool()).await;
    let states: Vec<_> = states.iter().map(|(job, status, _)| (job.as_str(), status.as_str())).collect();
    assert_eq!(states, [("\"good\"", "Done"), ("\"no ulid\"", "Done"), ("5", "Killed"), ("{no json", "Killed")]);
}

#[tokio::test]
async fn a_worker_outlives_an_outage() {
    let (events, _guard) = Events::up_to(LevelFilter::WARN);
    let file = File::new();
    let store = file.open().await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    queue.push("before".to_owned()).await.expect("it is written");

    // The worker's connections wait for nobody, so that the file is as good as gone while another has locked it.
    let impatient = SqliteStore::options(file.path()).busy_timeout(Duration::ZERO);
    let impatient = SqliteStore::new(SqlitePool::connect_with(impatient).await.expect("the file is there"));
    let (end, ended) = tokio::sync::watch::channel(false);
    let mut working = Working::start(worker(&impatient.queue("jobs")), move |_| {
        let mut ended = ended.clone();
        async move { Ok(ended.wait_for(|ended| *ended).await.map(drop)?) }
    });
    assert_eq!(working.next().await.args(), "before");

    let mut other = store.pool().acquire().await.expect("there is one more");
    let locked = other.begin_with("BEGIN EXCLUSIVE").await.expect("nobody is writing");
    // The job ends, which the worker can not write. It keeps trying, and looks for jobs, all in vain.
    end.send_replace(true);
    let in_vain = ["a worker can not take jobs", "a worker can not tell how a job ended", "a worker can not tell that it lives"];
    jobs::failed(&events, 3, &in_vain).await;
    locked.rollback().await.expect("it was locked");
    drop(other);

    queue.push("after".to_owned()).await.expect("it is written");
    assert_eq!(working.next().await.args(), "after");
    soon(working.stop()).await;
    let done = |job: &str| (format!("\"{job}\""), "Done".to_owned(), 1);
    assert_eq!(states(store.pool()).await, [done("after"), done("before")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_end_is_not_that_of_a_newer_attempt() {
    let file = File::new();
    let store = file.open().await;
    let silence = async || {
        sqlx::query("UPDATE Workers SET last_seen = 0").execute(store.pool()).await.expect("there is a table");
    };
    jobs::a_late_end_is_not_that_of_a_newer_attempt(&store, &store.queue("jobs"), silence).await;
    let done = |job: &str, attempts| (format!("\"{job}\""), "Done".to_owned(), attempts);
    assert_eq!(states(store.pool()).await, [done("job", 2), done("last", 1), done("last", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_long_dead_are_forgotten() {
    let file = File::new();
    let store = file.open().await;
    let silent = async |queue: &str, name: &str, days: i64| {
        let made = sqlx::query(
            "INSERT INTO Workers (id, worker_type, storage_name, last_seen) VALUES (?1, ?2, 'test', unixepoch() - ?3 * 86400)
             ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen",
        );
        made.bind(name).bind(queue).bind(days).execute(store.pool()).await.expect("there is a table");
    };
    let workers = async || sqlx::query_scalar("SELECT id FROM Workers").fetch_all(store.pool()).await.expect("there is a table");
    jobs::workers_that_are_long_dead_are_forgotten(&store.queue("jobs"), silent, workers).await;
}

/// A process that runs the jobs of this file, each for so long, once it is at work.
async fn process(file: &File, takes: Duration) -> (Child, impl AsyncFnMut(&str) -> String) {
    let path = file.path();
    let takes = takes.as_millis().to_string();
    let arguments = [path.to_str().expect("the path is text"), "2", &takes, "jobs"];
    let (child, first, mut lines) = start_with("queue_worker_sqlite", "sqlite", &arguments).await;
    assert_eq!(first, "working");
    let next = async move |start: &str| {
        let line = soon(lines.next_line()).await.expect("it prints text").expect("it goes on");
        line.strip_prefix(start).unwrap_or_else(|| panic!("{line} should start with {start}")).to_owned()
    };
    (child, next)
}

#[tokio::test]
async fn what_a_killed_process_has_begun_is_done_by_another() {
    let file = File::new();
    let queue: JobQueue<_, String> = file.open().await.queue("jobs");
    let (mut killed, mut tells) = process(&file, LONG).await;
    let id = queue.push("job".to_owned()).await.expect("it is written").remove(0);
    assert_eq!(tells("begun ").await, format!("{id} 1 job"));
    killed.kill().await.expect("it can be killed");

    let (mut other, mut tells) = process(&file, Duration::ZERO).await;
    assert_eq!(tells("begun ").await, format!("{id} 2 job"));
    assert_eq!(tells("done ").await, format!("{id} 2 job"));
    let other_id = other.id().expect("it runs").to_string();
    assert!(Command::new("kill").arg(other_id).status().await.expect("there is kill").success());
    assert_eq!(tells("stopped").await, "", "at SIGTERM it stops as it should");
    assert!(other.wait().await.expect("it ends").success());
}

/// The tables are apalis': what is pushed here, its workers can run, and the other way about.
#[tokio::test]
async fn apalis_runs_these_jobs_and_these_workers_run_its() {
    let file = File::new();
    let store = file.open().await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    // Its worker looks for jobs with each heartbeat only. One that is to look more often may miss its wake-ups.
    let config = Config::default().queue("jobs").heartbeat_interval(Duration::from_secs(1));
    let storage = SqliteStorage::<String>::new(store.pool()).with_config(config);

    queue.held(LONG).push("to apalis".to_owned()).await.expect("it is written").release().await.expect("the file is there");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let run = move |job: String, worker: WorkerContext| {
        let tell = tell.clone();
        async move {
            tell.send(job)?;
            worker.stop()?;
            Ok::<_, BoxError>(())
        }
    };
    soon(WorkerBuilder::new("apalis").backend(storage.clone()).build(run).run())
        .await
        .expect("its worker stops when it is told to");
    assert_eq!(told.recv().await.as_deref(), Some("to apalis"));

    ApalisQueue::new(storage).push("from apalis".to_owned()).await.expect("it is written");
    let mut working = Working::idle(&queue);
    assert_eq!(working.next().await.args(), "from apalis");
    working.stop().await;
    let done = |job: &str| (format!("\"{job}\""), "Done".to_owned(), 1);
    assert_eq!(states(store.pool()).await, [done("from apalis"), done("to apalis")]);
}

/// What a board or another tool of apalis' asks of a backend.
#[tokio::test]
async fn tools_of_apalis_see_queues_workers_and_jobs() {
    let file = File::new();
    let store = file.open().await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    let storage = SqliteStorage::<String>::new(store.pool()).with_config(Config::default().queue("jobs"));
    let mut working = Working::idle(&queue);
    queue.push("done".to_owned()).await.expect("it is written");
    assert_eq!(working.next().await.args(), "done");
    let held = queue.held(LONG).push("held".to_owned()).await.expect("it is written");
    jobs::tools_see(&storage, held.ids()[0].to_string()).await;
    working.stop().await;
}

#[tokio::test]
async fn a_board_shows_queues_workers_and_jobs() {
    let file = File::new();
    let store = file.open().await;
    let storage = SqliteStorage::<String>::new(store.pool()).with_config(Config::default().queue("jobs"));
    jobs::a_board_shows(&store.queue("jobs"), storage).await;
}

/// They share a table of migrations, as both are asked for in the same file.
#[tokio::test]
async fn migrations_of_ones_own_go_beside() {
    let file = File::new();
    let store = file.open().await;
    let users = SqlStr::from_static("CREATE TABLE users (address TEXT NOT NULL)");
    let mut own = Migrator::with_migrations(vec![Migration::new(1, "users".into(), MigrationType::Simple, users, false)]);
    let error = own.run(store.pool()).await.expect_err("it misses those of the tables of jobs");
    assert!(matches!(error, MigrateError::VersionMissing(_)), "{error}");
    own.set_ignore_missing(true);
    for _ in 0..2 {
        own.run(store.pool()).await.expect("they are done, once");
        SqliteStore::setup(&SqliteStore::options(file.path())).await.expect("and ours are there");
    }
    sqlx::query("INSERT INTO users VALUES ('ada@example.org')").execute(store.pool()).await.expect("there is a table");
}
