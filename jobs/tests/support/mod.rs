//! Both engines for a test, and waiting for events.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

pub mod large;
pub mod postgres;
pub mod proxy;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tower_background_jobs::{JobQueue, PgmqEngine, SqliteEngine, engines::Engine};

use self::postgres::Postgres;

/// The longest time that a test waits for an event.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A database for one test.
pub enum Database {
    Sqlite(TempDir),
    Postgres(&'static Postgres, String),
}

impl Database {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a folder can be created"))
    }

    /// `None` if PostgreSQL is not installed.
    pub async fn postgres() -> Option<Self> {
        let server = Postgres::shared().await?;
        let database = server.database().await;
        let this = Self::Postgres(server, database);
        this.pgmq().install().await.expect("pgmq can be installed");
        Some(this)
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(..))
    }

    pub fn path(&self) -> PathBuf {
        let Self::Sqlite(folder) = self else {
            panic!("this is no file")
        };
        folder.path().join("jobs.db")
    }

    pub fn url(&self) -> String {
        let Self::Postgres(server, database) = self else {
            panic!("this is no server")
        };
        server.url(database)
    }

    /// The URL or the path.
    pub fn location(&self) -> String {
        if self.is_postgres() {
            self.url()
        } else {
            self.path().display().to_string()
        }
    }

    fn pgmq(&self) -> PgmqEngine {
        PgmqEngine::connect(&self.url()).expect("the URL is one")
    }

    pub async fn engine(&self) -> Arc<dyn Engine> {
        self.engine_with(Duration::from_secs(5)).await
    }

    /// An engine whose calls may take so long.
    pub async fn engine_with(&self, bound: Duration) -> Arc<dyn Engine> {
        match self {
            Self::Sqlite(_) => {
                let engine = SqliteEngine::open_with(self.path(), bound).await;
                Arc::new(engine.expect("it opens"))
            }
            Self::Postgres(..) => {
                let options = self.url().parse().expect("the URL is one");
                Arc::new(PgmqEngine::connect_with(options, bound).expect("it is prepared"))
            }
        }
    }

    /// A queue on an engine of its own.
    pub async fn queue<J: Serialize + DeserializeOwned>(&self, name: &str) -> JobQueue<J> {
        JobQueue::open_shared(self.engine().await, name)
            .await
            .expect("the queue opens")
    }
}

/// Defines a test on both engines.
#[macro_export]
macro_rules! on_both {
    ($(#[doc = $doc:literal])* async fn $name:ident($database:ident) $body:block) => {
        $(#[doc = $doc])*
        mod $name {
            #[allow(unused_imports, reason = "not each test needs all of them")]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run($crate::support::Database::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let Some(database) = $crate::support::Database::postgres().await else { return };
                run(database).await;
            }

            async fn run($database: $crate::support::Database) $body
        }
    };
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
