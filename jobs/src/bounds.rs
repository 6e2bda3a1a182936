//! Bounds on the time that a call may take.

use std::{future::Future, time::Duration};

use tokio::time::timeout;

use crate::Error;

/// The bound for a connection. Both databases count it in milliseconds of 32 bits, so it is at most
/// 24 days.
pub(crate) fn for_connections(bound: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
    bound.min(LONGEST)
}

/// Awaits a call on the database, for at most `bound`.
pub(crate) async fn within<T>(
    during: &'static str,
    bound: Duration,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match timeout(bound, call).await {
        Ok(answer) => answer.map_err(|error| Error::database(during, error)),
        Err(_) => Err(Error::TimedOut {
            during,
            after: bound,
        }),
    }
}

/// Awaits a call that names its errors itself, for at most `bound`.
pub(crate) async fn bounded<T>(
    during: &'static str,
    bound: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(bound, call).await.unwrap_or(Err(Error::TimedOut {
        during,
        after: bound,
    }))
}
