//! Where jobs are kept: what one process has to tell another of it, and what all do with it.

use std::{path::PathBuf, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::time::{Instant, sleep};
use tower_background::{BoxError, PostgresStore, SqliteStore};

use crate::PATIENCE;

/// Where the jobs are: a file, or the folder of a server's socket.
#[derive(Debug, Clone)]
pub enum Place {
    Sqlite(PathBuf),
    Postgres(PathBuf),
}

impl Place {
    pub fn arguments(&self) -> Vec<String> {
        let (engine, path) = match self {
            Self::Sqlite(path) => ("sqlite", path),
            Self::Postgres(path) => ("postgres", path),
        };
        vec![engine.to_owned(), path.display().to_string()]
    }

    pub fn parse(engine: &str, path: &str) -> Option<Self> {
        match engine {
            "sqlite" => Some(Self::Sqlite(path.into())),
            "postgres" => Some(Self::Postgres(path.into())),
            _ => None,
        }
    }
}

pub enum Store {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Store {
    pub async fn open(place: &Place) -> Result<Self, BoxError> {
        Ok(match place {
            Place::Sqlite(file) => Self::Sqlite(SqliteStore::open(file).await?),
            Place::Postgres(socket) => {
                let server = PgConnectOptions::new_without_pgpass().socket(socket).username("test").database("postgres");
                let store = PostgresStore::new(PgPoolOptions::new().max_connections(10).connect_with(server).await?);
                store.setup().await?;
                Self::Postgres(store)
            }
        })
    }

    /// Waits until no job is left to be done.
    pub async fn drained(&self, longest: Duration) -> Result<(), BoxError> {
        self.fewer(1, "status NOT IN ('Done', 'Killed')", longest).await
    }

    /// Waits until the worker has no more than some jobs to do.
    pub async fn caught_up(&self) -> Result<(), BoxError> {
        let now = match self {
            Self::Sqlite(_) => "unixepoch()",
            Self::Postgres(_) => "now()",
        };
        self.fewer(30, &format!("status = 'Pending' AND run_at <= {now}"), PATIENCE).await
    }

    /// Waits until there are fewer such jobs.
    async fn fewer(&self, jobs: i64, such: &str, longest: Duration) -> Result<(), BoxError> {
        let deadline = Instant::now() + longest;
        loop {
            let left: i64 = match self {
                Self::Sqlite(store) => {
                    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM Jobs WHERE {such}"));
                    sqlx::query_scalar(query).fetch_one(store.pool()).await?
                }
                Self::Postgres(store) => {
                    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM apalis.jobs WHERE {such}"));
                    sqlx::query_scalar(query).fetch_one(store.pool()).await?
                }
            };
            if left < jobs {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{left} jobs are not done after {longest:?}").into());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}
