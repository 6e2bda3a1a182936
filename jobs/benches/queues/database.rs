//! A database to measure, with a plain table beside the queues.

use std::{path::Path, sync::Arc, time::Duration};

use sqlx::{
    PgPool, SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tower_background_jobs::{JobQueue, PgmqEngine, SqliteEngine, engines::Engine};

use crate::{PAYLOAD, support::postgres::Postgres};

pub(crate) struct Database {
    /// The URL or the path.
    pub(crate) location: String,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) plain: Plain,
}

/// A pool of 10 connections for plain `INSERT` statements.
#[derive(Clone)]
pub(crate) enum Plain {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Plain {
    pub(crate) async fn insert(self) {
        match self {
            Self::Sqlite(pool) => {
                let insert = sqlx::query("INSERT INTO plain (body) VALUES (?)");
                insert.bind(PAYLOAD).execute(&pool).await.map(drop)
            }
            Self::Postgres(pool) => {
                let insert = sqlx::query("INSERT INTO plain (body) VALUES (to_jsonb($1::text))");
                insert.bind(PAYLOAD).execute(&pool).await.map(drop)
            }
        }
        .expect("it inserts");
    }
}

impl Database {
    pub(crate) async fn sqlite(folder: &Path) -> Self {
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
        let location = folder.join("jobs.db").display().to_string();
        Self {
            engine: engine(&location).await,
            location,
            plain: Plain::Sqlite(pool),
        }
    }

    /// The database of `DATABASE_URL`, or one on a server that is started for this. `None` if there
    /// is no such variable and no PostgreSQL.
    pub(crate) async fn postgres() -> Option<Self> {
        let location = match std::env::var("DATABASE_URL") {
            Ok(url) => url,
            Err(_) => {
                let server = Postgres::shared().await?;
                server.url(&server.database().await)
            }
        };
        let pool = PgPoolOptions::new()
            .max_connections(10)
            .connect(&location)
            .await
            .expect("a server");
        sqlx::raw_sql("DROP TABLE IF EXISTS plain; CREATE TABLE plain (id BIGSERIAL, body JSONB)")
            .execute(&pool)
            .await
            .expect("a table");
        let engine = PgmqEngine::connect(&location).unwrap();
        engine.install().await.unwrap();
        Some(Self {
            engine: Arc::new(engine),
            location,
            plain: Plain::Postgres(pool),
        })
    }

    /// A queue on the engine of this database.
    pub(crate) async fn queue<J>(&self, name: &str) -> JobQueue<J> {
        let engine = Arc::clone(&self.engine);
        JobQueue::open_shared(engine, name).await.unwrap()
    }

    /// The same queue on another engine, as another process has it.
    pub(crate) async fn other_queue<J>(&self, name: &str) -> JobQueue<J> {
        let engine = engine(&self.location).await;
        JobQueue::open_shared(engine, name).await.unwrap()
    }
}

async fn engine(location: &str) -> Arc<dyn Engine> {
    if location.contains("://") {
        Arc::new(PgmqEngine::connect(location).unwrap())
    } else {
        Arc::new(SqliteEngine::open(location).await.unwrap())
    }
}
