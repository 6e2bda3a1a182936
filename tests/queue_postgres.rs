//! Jobs in a database of PostgreSQL's: what is written when, who runs it, and what becomes of workers that meet what they should
//! not.
//!
//! Skipped where there is no PostgreSQL, unless `TOWER_BACKGROUND_NO_SKIP` is set.

#[path = "support/mod.rs"]
mod support;

use apalis_core::task::builder::TaskBuilder;
use apalis_postgres::{Config, PostgresStorage};
use sqlx::{
    PgPool, Row, SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};
use support::{
    Events, Postgres,
    jobs::{self, LONG, Working, worker},
    soon, until,
};
use tower_background::{JobQueue, PostgresStore, Receipt};
use tracing::level_filters::LevelFilter;

async fn store(server: &Postgres) -> PostgresStore {
    let store = PostgresStore::new(server.pool().await);
    store.setup().await.expect("the tables can be made");
    store
}

/// The status and the attempts of each job, by its arguments.
async fn states(pool: &PgPool) -> Vec<(String, String, i32)> {
    let rows =
        sqlx::query("SELECT convert_from(job, 'UTF8'), status, attempts FROM apalis.jobs ORDER BY 1").fetch_all(pool).await;
    rows.expect("there is a table").iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// The same tests that other engines have, each with a queue of its own in one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_holds_for_each_engine() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    jobs::what_is_pushed_runs_once(&store.queue("runs once")).await;
    jobs::held_jobs_wait_for_their_release(&store.queue("held")).await;
    jobs::held_jobs_run_when_their_grace_is_over(&store.queue("grace")).await;
    jobs::a_release_keeps_to_a_start_time(&store.queue("start time")).await;
    jobs::a_key_is_written_once(&store.queue("key")).await;
    jobs::what_fails_is_tried_again_and_stops_nobody(&store.queue("fails")).await;
    jobs::jobs_of_the_dead_are_taken_up(&store.queue("dead")).await;
    let seen = async || {
        let seen = "SELECT extract(epoch FROM last_seen)::bigint FROM apalis.workers WHERE worker_type = 'living'";
        sqlx::query_scalar(seen).fetch_all(store.pool()).await.expect("there is a table")
    };
    jobs::a_living_worker_keeps_its_jobs(&store.queue("living"), seen).await;
    jobs::a_worker_that_is_stopped_ends_what_it_has_begun(&store.queue("stopped")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_start_at_once() {
    let Some(server) = Postgres::start().await else { return };
    let mut setups = Vec::new();
    for _ in 0..8 {
        let store = PostgresStore::new(server.pool().await);
        setups.push(tokio::spawn(async move { store.setup().await }));
    }
    for setup in setups {
        setup.await.expect("none panics").expect("none fails");
    }
}

#[tokio::test]
async fn jobs_share_the_fate_of_their_transaction() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let queue: JobQueue<_, String> = store.queue("jobs");

    let mut transaction = store.pool().begin().await.expect("the server is up");
    queue.push_in(&mut transaction, "plain".to_owned()).await.expect("it is written");
    let lost = queue.held(LONG).push_in(&mut transaction, "held".to_owned()).await.expect("it is written");
    transaction.rollback().await.expect("it can be undone");
    lost.release().await.expect("that there is nothing to release is no error");
    assert_eq!(states(store.pool()).await, []);

    queue.push(TaskBuilder::new("first".to_owned()).idempotency_key("key").build()).await.expect("it is written");
    let mut transaction = store.pool().begin().await.expect("the server is up");
    let again = TaskBuilder::new("again".to_owned()).idempotency_key("key").build();
    queue.push_in(&mut transaction, again).await.expect("a key that is there is no error");
    let held =
        queue.held(LONG).push_in(&mut transaction, "held".to_owned()).await.expect("which would have spoilt the transaction");
    transaction.commit().await.expect("it can be kept");

    let mut working = Working::idle(&queue);
    assert_eq!(working.next().await.args(), "first");
    held.release().await.expect("the server is up");
    assert_eq!(working.next().await.args(), "held");
    working.stop().await;
}

/// The worker asks so seldom that only what it is told can wake it.
#[tokio::test]
async fn a_worker_is_told_of_new_jobs_and_of_released_ones() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    let mut working = Working::start(worker(&queue).poll(LONG), async |_| Ok(()));
    // It may not yet listen: then the first job is one that it finds when it first asks, or the next wakes it for both.
    queue.push("first".to_owned()).await.expect("it is written");
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    let listeners = async || sqlx::query_scalar::<_, i64>(listens).fetch_one(store.pool()).await.expect("the server is up");
    until(async || listeners().await > 0).await;
    let held = queue.held(LONG).push("held".to_owned()).await.expect("it is written");
    queue.push("second".to_owned()).await.expect("it is written");
    assert_eq!(working.texts(2).await, ["first", "second"]);
    held.release().await.expect("the server is up");
    assert_eq!(working.next().await.args(), "held");
    working.stop().await;
}

/// Rows that no job of this queue should look like, and that end every worker of apalis' that meets them.
#[tokio::test]
async fn poison_is_put_aside() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    let insert = "INSERT INTO apalis.jobs (job, id, job_type, status, priority, metadata)
                  VALUES ($1, $2, 'jobs', 'Pending', 9, 'key=>NULL')";
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
    let Some(mut server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    queue.push("before".to_owned()).await.expect("it is written");
    let (end, ended) = tokio::sync::watch::channel(false);
    let mut working = Working::start(worker(&queue), move |_| {
        let mut ended = ended.clone();
        async move { Ok(ended.wait_for(|ended| *ended).await.map(drop)?) }
    });
    assert_eq!(working.next().await.args(), "before");

    server.down();
    queue.push("lost".to_owned()).await.expect_err("nobody is there to take it");
    // The job ends, which the worker can not write. It keeps trying, and looks for jobs, all in vain.
    end.send_replace(true);
    let in_vain = [
        "a worker can not take jobs",
        "a worker can not tell how a job ended",
        "a worker can not tell that it lives",
        "a worker is told of no new jobs, and asks for them",
    ];
    jobs::failed(&events, 2, &in_vain).await;
    server.up().await;

    queue.push("after".to_owned()).await.expect("it is written");
    assert_eq!(working.next().await.args(), "after");
    soon(working.stop()).await;
    let done = |job: &str| (format!("\"{job}\""), "Done".to_owned(), 1);
    assert_eq!(states(store.pool()).await, [done("after"), done("before")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_end_is_not_that_of_a_newer_attempt() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let silence = async || {
        sqlx::query("UPDATE apalis.workers SET last_seen = 'epoch'").execute(store.pool()).await.expect("there is a table");
    };
    jobs::a_late_end_is_not_that_of_a_newer_attempt(&store, &store.queue("jobs"), silence).await;
    let done = |job: &str, attempts| (format!("\"{job}\""), "Done".to_owned(), attempts);
    assert_eq!(states(store.pool()).await, [done("job", 2), done("last", 1), done("last", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_long_dead_are_forgotten() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let silent = async |queue: &str, name: &str, days: i64| {
        let made = sqlx::query(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, last_seen)
             VALUES ($1, $2, 'test', now() - make_interval(days => $3::int))
             ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen",
        );
        made.bind(name).bind(queue).bind(days).execute(store.pool()).await.expect("there is a table");
    };
    let workers =
        async || sqlx::query_scalar("SELECT id FROM apalis.workers").fetch_all(store.pool()).await.expect("there is a table");
    jobs::workers_that_are_long_dead_are_forgotten(&store.queue("jobs"), silent, workers).await;
}

/// What a board or another tool of apalis' asks of a backend.
#[tokio::test]
async fn tools_of_apalis_see_queues_workers_and_jobs() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let queue: JobQueue<_, String> = store.queue("jobs");
    let storage = PostgresStorage::<String>::new(store.pool()).with_config(Config::default().queue("jobs"));
    let mut working = Working::idle(&queue);
    queue.push("done".to_owned()).await.expect("it is written");
    assert_eq!(working.next().await.args(), "done");
    let held = queue.held(LONG).push("held".to_owned()).await.expect("it is written");
    jobs::tools_see(&storage, held.ids()[0].to_string()).await;
    working.stop().await;
}

#[tokio::test]
async fn a_board_shows_queues_workers_and_jobs() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let storage = PostgresStorage::<String>::new(store.pool()).with_config(Config::default().queue("jobs"));
    jobs::a_board_shows(&store.queue("jobs"), storage).await;
}

/// The tables of jobs have a table of migrations of their own, in their schema.
#[tokio::test]
async fn migrations_of_ones_own_go_beside() {
    let Some(server) = Postgres::start().await else { return };
    let store = store(&server).await;
    let users = SqlStr::from_static("CREATE TABLE users (address TEXT NOT NULL)");
    let own = Migrator::with_migrations(vec![Migration::new(1, "users".into(), MigrationType::Simple, users, false)]);
    for _ in 0..2 {
        own.run(store.pool()).await.expect("they are done, once");
        store.setup().await.expect("and ours are there");
    }
    sqlx::query("INSERT INTO users VALUES ('ada@example.org')").execute(store.pool()).await.expect("there is a table");
}
