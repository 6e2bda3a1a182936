//! Where jobs are kept: what one process has to tell another of it, and what all do with it.

use std::{path::PathBuf, time::Duration};

use sqlx::{
    Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, sleep};
use tower_background::{BoxError, PostgresStore, SqliteStore};

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
        let deadline = Instant::now() + longest;
        loop {
            let left = self.left().await?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{left} jobs are not done after {longest:?}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn left(&self) -> Result<i64, BoxError> {
        let left = "status NOT IN ('Done', 'Killed')";
        Ok(match self {
            Self::Sqlite(store) => {
                let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM Jobs WHERE {left}"));
                sqlx::query(query).fetch_one(store.pool()).await?.try_get(0)?
            }
            Self::Postgres(store) => {
                let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM apalis.jobs WHERE {left}"));
                sqlx::query(query).fetch_one(store.pool()).await?.try_get(0)?
            }
        })
    }
}
