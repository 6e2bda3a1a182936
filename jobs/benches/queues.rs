//! Measures pushes beside plain `INSERT` statements, workers, start latencies, and reads of large queues, in one
//! run on both engines. Prints the table of `README.md`.
//!
//! `cargo bench -p tower-background-jobs --all-features`; set `DATABASE_URL` to a PostgreSQL
//! database, or only SQLite is measured.

#![allow(
    clippy::pedantic,
    reason = "a test is read more often than it is called"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use sqlx::{
    Connection, PgConnection, PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::mpsc;
use tower_background_jobs::{JobQueue, PgmqEngine, SqliteEngine, engines::Engine};

const CLIENTS: [usize; 3] = [1, 10, 100];
const PAYLOAD: &str = "ada@example.org, a welcome mail in the language of the user";

#[tokio::main]
async fn main() {
    // Cargo gives `--bench`. A test run gives nothing, and measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let seconds = std::env::var("SECONDS_EACH")
        .ok()
        .and_then(|value| value.parse().ok());
    let each = Duration::from_secs(seconds.unwrap_or(3));
    println!("| measured | SQLite | PostgreSQL |\n|---|---|---|");
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be created");
    let sqlite = Sqlite::open(folder.path()).await;
    let postgres = match std::env::var("DATABASE_URL") {
        Ok(url) => Some(Postgres::open(&url).await),
        Err(_) => None,
    };
    for clients in CLIENTS {
        let (mut left, mut right) = (String::from("-"), String::from("-"));
        let pool = sqlite.pool.clone();
        let plain = rate(clients, each, move || insert_sqlite(pool.clone())).await;
        let queue = sqlite.queue.clone();
        let push = rate(clients, each, move || push(queue.clone())).await;
        beside(&mut left, &push, &plain);
        if let Some(postgres) = &postgres {
            let pool = postgres.pool.clone();
            let plain = rate(clients, each, move || insert_postgres(pool.clone())).await;
            let queue = postgres.queue.clone();
            let push = rate(clients, each, move || self::push(queue.clone())).await;
            beside(&mut right, &push, &plain);
        }
        println!("| pushes/s, {clients} at a time (plain INSERT; ratio; p99) | {left} | {right} |");
    }
    for places in [16, 64, 256] {
        let left = work(&sqlite.engine, places).await;
        let right = match &postgres {
            Some(postgres) => work(&postgres.engine, places).await,
            None => "-".to_owned(),
        };
        println!("| empty jobs/s of one worker with {places} places | {left} | {right} |");
    }
    let left = latency(&sqlite.engine, &sqlite.engine).await;
    let right = match &postgres {
        Some(postgres) => latency(&postgres.engine, &postgres.engine).await,
        None => "-".to_owned(),
    };
    println!("| push to start, idle worker of the same engine: p50 / p95 | {left} | {right} |");
    let other: Arc<dyn Engine> = Arc::new(SqliteEngine::open(sqlite.path.clone()).await.unwrap());
    let left = latency(&other, &sqlite.engine).await;
    let right = match &postgres {
        Some(postgres) => {
            let other: Arc<dyn Engine> = Arc::new(PgmqEngine::connect(&postgres.url).unwrap());
            latency(&other, &postgres.engine).await
        }
        None => "-".to_owned(),
    };
    println!("| push to start, worker of another engine: p50 / p95 | {left} | {right} |");
    let left = {
        let small = reads(&sqlite.engine, "small").await;
        sqlite.fill("large").await;
        (small, reads(&sqlite.engine, "large").await)
    };
    let right = match &postgres {
        Some(postgres) => {
            let small = reads(&postgres.engine, "small").await;
            postgres.fill("large").await;
            Some((small, reads(&postgres.engine, "large").await))
        }
        None => None,
    };
    let show = |(small, large): (Duration, Duration)| format!("{small:.2?} / {large:.2?}");
    println!(
        "| read of 16: queue otherwise empty / 100,000 delayed and 1,000,000 archived | {} | {} |",
        show(left),
        right.map_or_else(|| "-".to_owned(), show)
    );
}

struct Sqlite {
    path: std::path::PathBuf,
    pool: SqlitePool,
    engine: Arc<dyn Engine>,
    queue: JobQueue<String>,
}

impl Sqlite {
    async fn open(folder: &std::path::Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(folder.join("plain.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new()
            .max_connections(10)
            .connect_with(options)
            .await;
        let pool = pool.expect("the file opens");
        let table = "CREATE TABLE plain (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT)";
        sqlx::query(table).execute(&pool).await.expect("a table");
        let path = folder.join("jobs.db");
        let engine: Arc<dyn Engine> = Arc::new(SqliteEngine::open(path.clone()).await.unwrap());
        let queue = JobQueue::open_shared(Arc::clone(&engine), "pushes")
            .await
            .unwrap();
        Self {
            path,
            pool,
            engine,
            queue,
        }
    }

    async fn fill(&self, queue: &str) {
        let url = format!("sqlite://{}", self.path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <";
        for (count, insert) in [
            (
                100_000,
                "INSERT INTO background_jobs (queue, visible_at, enqueued_at, message)
                 SELECT ?1, 9000000000000 + i, 0, '\"x\"' FROM n",
            ),
            (
                1_000_000,
                "INSERT INTO background_jobs_archive
                    (id, queue, visible_at, read_count, enqueued_at, archived_at, message)
                 SELECT 10000000 + i, ?1, 0, 1, 0, 0, '\"x\"' FROM n",
            ),
        ] {
            // SQLite wants the common table expression before the INSERT.
            let sql = format!("{numbers} {count}) {insert}");
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(queue);
            query.execute(&mut connection).await.unwrap();
        }
    }
}

struct Postgres {
    url: String,
    pool: PgPool,
    engine: Arc<dyn Engine>,
    queue: JobQueue<String>,
}

impl Postgres {
    async fn open(url: &str) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .connect(url)
            .await
            .expect("a server");
        sqlx::raw_sql("DROP TABLE IF EXISTS plain; CREATE TABLE plain (id BIGSERIAL, body JSONB)")
            .execute(&pool)
            .await
            .expect("a table");
        let engine = PgmqEngine::connect(url).unwrap();
        engine.install().await.unwrap();
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let queue = JobQueue::open_shared(Arc::clone(&engine), "pushes")
            .await
            .unwrap();
        Self {
            url: url.to_owned(),
            pool,
            engine,
            queue,
        }
    }

    async fn fill(&self, queue: &str) {
        JobQueue::<u8>::open_shared(Arc::clone(&self.engine), queue)
            .await
            .unwrap();
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let sql = format!(
            "INSERT INTO pgmq.q_{queue} (vt, message)
                SELECT now() + interval '1 day' + i * interval '1 ms', '\"x\"'
                FROM generate_series(1, 100000) AS i;
             INSERT INTO pgmq.a_{queue} (msg_id, vt, message)
                SELECT 10000000 + i, now(), '\"x\"' FROM generate_series(1, 1000000) AS i;
             ANALYZE pgmq.q_{queue};"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

async fn insert_sqlite(pool: SqlitePool) {
    let query = sqlx::query("INSERT INTO plain (body) VALUES (?)").bind(PAYLOAD);
    query.execute(&pool).await.expect("it inserts");
}

async fn insert_postgres(pool: PgPool) {
    let query = sqlx::query("INSERT INTO plain (body) VALUES (to_jsonb($1::text))").bind(PAYLOAD);
    query.execute(&pool).await.expect("it inserts");
}

async fn push(queue: JobQueue<String>) {
    queue.push(&PAYLOAD.to_owned()).await.expect("it pushes");
}

/// Calls per second, and the time that 99 of 100 calls take at most.
struct Rate(f64, Duration);

async fn rate<F>(
    clients: usize,
    time: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Rate
where
    F: Future<Output = ()> + Send,
{
    call().await;
    let begun = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < time {
                    let called = Instant::now();
                    call().await;
                    times.push(called.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.expect("it ends"));
    }
    let elapsed = begun.elapsed();
    times.sort_unstable();
    Rate(
        times.len() as f64 / elapsed.as_secs_f64(),
        times[times.len() * 99 / 100],
    )
}

fn beside(cell: &mut String, Rate(push, p99): &Rate, Rate(plain, _): &Rate) {
    *cell = format!("{push:.0} ({plain:.0}; {:.2}; {p99:.1?})", push / plain);
}

async fn work(engine: &Arc<dyn Engine>, places: usize) -> String {
    const JOBS: u64 = 40_000;
    let name = format!("work_{places}");
    let queue: JobQueue<u32> = JobQueue::open_shared(Arc::clone(engine), &name)
        .await
        .unwrap();
    let pushes: Vec<_> = (0..200)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in 0..(JOBS / 200) as u32 {
                    queue.push(&number).await.unwrap();
                }
            })
        })
        .collect();
    for push in pushes {
        push.await.unwrap();
    }
    let begun = Instant::now();
    let worker = queue
        .worker(|_, _| async { Ok(()) })
        .concurrency(places)
        .start();
    while worker.counts().done < JOBS || worker.counts().running > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = JOBS as f64 / begun.elapsed().as_secs_f64();
    worker.stop(Duration::from_secs(5)).await;
    format!("{rate:.0}")
}

async fn latency(pushing: &Arc<dyn Engine>, working: &Arc<dyn Engine>) -> String {
    let (told, mut started) = mpsc::unbounded_channel();
    let queue: JobQueue<u8> = JobQueue::open_shared(Arc::clone(working), "latency")
        .await
        .unwrap();
    let handler = move |_, _| {
        told.send(Instant::now()).expect("it is awaited");
        async { Ok(()) }
    };
    let worker = queue.worker(handler).start();
    let queue: JobQueue<u8> = JobQueue::open_shared(Arc::clone(pushing), "latency")
        .await
        .unwrap();
    let mut times = Vec::new();
    for round in 0..200_u64 {
        // Not in step with the polls.
        tokio::time::sleep(Duration::from_millis(20 + round * 7 % 31)).await;
        let pushed = Instant::now();
        queue.push(&1).await.unwrap();
        times.push(
            started
                .recv()
                .await
                .expect("it runs")
                .duration_since(pushed),
        );
    }
    worker.stop(Duration::from_secs(5)).await;
    times.sort_unstable();
    format!("{:.1?} / {:.1?}", times[100], times[190])
}

/// The median time of a read of 16 messages.
async fn reads(engine: &Arc<dyn Engine>, name: &str) -> Duration {
    let queue: JobQueue<u8> = JobQueue::open_shared(Arc::clone(engine), name)
        .await
        .unwrap();
    let name = tower_background_jobs::engines::QueueName::new(name).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let mut times = Vec::new();
    for _ in 0..100 {
        let pushes: Vec<_> = (0..16)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.push(&1).await })
            })
            .collect();
        for push in pushes {
            push.await.unwrap().unwrap();
        }
        let begun = Instant::now();
        let batch = engine
            .read(&name, 16, Duration::from_secs(3_600))
            .await
            .unwrap();
        times.push(begun.elapsed());
        count.fetch_add(batch.messages.len() as u64, Relaxed);
    }
    assert_eq!(count.load(Relaxed), 1_600);
    times.sort_unstable();
    times[50]
}
