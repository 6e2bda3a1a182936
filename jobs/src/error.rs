//! [`Error`]: why a call on a queue failed.

use std::{error, fmt, path::PathBuf, sync::Arc, time::Duration};

/// Any error, as a handler may return it.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// Why a call on a queue failed.
///
/// A push that failed may have been written all the same: the database can commit and its answer
/// can get lost. Pushing again can then lead to two jobs, so jobs should be idempotent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The call took longer than its bound.
    TimedOut {
        /// What was called.
        during: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The database answered with an error, or the connection failed.
    Database {
        /// What was called.
        during: &'static str,
        /// The error of the database.
        source: Arc<sqlx::Error>,
    },
    /// The SQLite file can not be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the database.
        source: Arc<sqlx::Error>,
    },
    /// The SQLite file was deleted or replaced while it was open.
    FileReplaced {
        /// The file.
        path: PathBuf,
    },
    /// The schema of pgmq could not be installed.
    Install {
        /// What the installer said.
        reason: String,
    },
    /// The name of the queue has other characters than `a-z`, `0-9` and `_`, or more than 47.
    QueueName {
        /// The name.
        name: String,
    },
    /// The job can not be written as JSON.
    Encode {
        /// What serde said.
        reason: String,
    },
    /// The job contains the character U+0000, which PostgreSQL can not store in JSON.
    Nul,
    /// `push_in` was given a transaction on another kind of database than the queue's.
    WrongDatabase,
    /// The engine has stopped: its thread is gone.
    Stopped,
}

impl Error {
    pub(crate) fn database(during: &'static str, source: sqlx::Error) -> Self {
        Self::Database {
            during,
            source: Arc::new(source),
        }
    }

    /// Whether the database refused the data itself, so that it would refuse the data again.
    pub(crate) fn is_about_data(&self) -> bool {
        match self {
            Self::Database { source, .. } => source
                .as_database_error()
                .and_then(|error| error.code().map(|code| is_data_code(&code)))
                .unwrap_or(false),
            Self::Nul | Self::Encode { .. } => true,
            _ => false,
        }
    }
}

/// The classes of PostgreSQL: data exception, constraint, limit exceeded.
fn is_data_code(code: &str) -> bool {
    code.len() == 5
        && ["22", "23", "54"]
            .iter()
            .any(|class| code.starts_with(class))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { during, after } => write!(f, "{during} took longer than {after:?}"),
            Self::Database { during, source } => write!(f, "{during} failed: {source}"),
            Self::Open { path, source } => write!(f, "can not open {}: {source}", path.display()),
            Self::FileReplaced { path } => {
                write!(
                    f,
                    "{} was deleted or replaced while it was open",
                    path.display()
                )
            }
            Self::Install { reason } => write!(f, "can not install pgmq: {reason}"),
            Self::QueueName { name } => write!(
                f,
                "{name:?} is no queue name: use 1 to 47 of the characters a-z, 0-9 and _"
            ),
            Self::Encode { reason } => write!(f, "the job can not be written as JSON: {reason}"),
            Self::Nul => write!(
                f,
                "the job contains U+0000, which PostgreSQL can not store in JSON: remove or encode it"
            ),
            Self::WrongDatabase => {
                write!(
                    f,
                    "the transaction is on another kind of database than the queue"
                )
            }
            Self::Stopped => write!(f, "the engine has stopped: open it again"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Database { source, .. } | Self::Open { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
