//! Times as databases have them: milliseconds since 1970.

use std::time::{Duration, SystemTime};

pub(crate) fn time(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(feature = "sqlite")]
pub(crate) use of_this_machine::{later, millis, now, until};

/// SQLite has no server, so the clock is that of the machine.
#[cfg(feature = "sqlite")]
mod of_this_machine {
    use super::{Duration, SystemTime};

    pub(crate) fn now() -> i64 {
        millis(SystemTime::now())
    }

    pub(crate) fn millis(time: SystemTime) -> i64 {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) fn until(at: i64) -> Duration {
        Duration::from_millis(u64::try_from(at.saturating_sub(now())).unwrap_or(0))
    }

    pub(crate) fn later(delay: Duration) -> i64 {
        now().saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
    }
}
