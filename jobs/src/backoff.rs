//! [`Backoff`]: when a job that failed runs again.

use std::time::Duration;

use rand::Rng;

/// The time between two attempts of a job: a random time up to a limit that doubles ("full
/// jitter"), so that jobs that failed together do not return together.
///
/// The default limits are 1 s, 2 s, 4 s and so on up to 24 h. With the default of 25 attempts the
/// last attempt is about four days after the first, and less than two days in one of 200 jobs.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_background_jobs::Backoff;
///
/// let backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(600));
/// assert_eq!(backoff.limit(1), Duration::from_secs(10));
/// assert_eq!(backoff.limit(3), Duration::from_secs(40));
/// assert_eq!(backoff.limit(20), Duration::from_secs(600));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits up to `first` after the first failure, and up to `longest` after many.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// Returns the longest wait after this attempt. The first attempt is 1.
    #[must_use]
    pub fn limit(&self, attempt: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    pub(crate) fn delay(&self, attempt: u32) -> Duration {
        jitter(self.limit(attempt))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_hours(24))
    }
}

/// A random time up to `limit`.
pub(crate) fn jitter(limit: Duration) -> Duration {
    limit.mul_f64(rand::rng().random_range(0.0..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the default promises, over 20,000 jobs that never succeed.
    #[test]
    fn the_default_spans_two_days() {
        let backoff = Backoff::default();
        let span = |_| {
            (1..25)
                .map(|attempt| backoff.delay(attempt))
                .sum::<Duration>()
        };
        let mut spans: Vec<Duration> = (0..20_000).map(span).collect();
        spans.sort_unstable();
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        assert!(
            spans[spans.len() / 200] > days(2),
            "{:?}",
            spans[spans.len() / 200]
        );
        assert!(
            spans[spans.len() / 2] > days(3),
            "{:?}",
            spans[spans.len() / 2]
        );
    }

    #[test]
    fn a_late_attempt_does_not_overflow() {
        assert_eq!(Backoff::default().limit(u32::MAX), Duration::from_hours(24));
        assert_eq!(Backoff::default().limit(0), Duration::from_secs(1));
    }
}
