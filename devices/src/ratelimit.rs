//! A bound on log lines that a guest can cause.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::bus::lock;

/// A token bucket for log lines: `burst` at once, and a new one each time a
/// `burst`th of the period has passed.
///
/// ```
/// use std::time::Duration;
/// use nestling_devices::ratelimit::RateLimit;
///
/// static MALFORMED: RateLimit = RateLimit::new(5, Duration::from_secs(60));
/// if let Some(suppressed) = MALFORMED.admit() {
///     tracing::warn!(suppressed, "malformed request");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimit {
    burst: u32,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: u32,
    /// When the tokens were last added to; `None` while the bucket is full.
    since: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// Admits at most `burst` messages at once and `burst` per `period` on
    /// average. A burst of zero admits nothing.
    pub const fn new(burst: u32, period: Duration) -> Self {
        let state = State {
            tokens: burst,
            since: None,
            suppressed: 0,
        };
        Self {
            burst,
            period,
            state: Mutex::new(state),
        }
    }

    /// Whether a message may be logged now; if so, how many before it were
    /// not.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        self.refill(&mut state, now);
        if state.tokens == 0 {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.tokens -= 1;
        state.since.get_or_insert(now);
        Some(std::mem::take(&mut state.suppressed))
    }

    fn refill(&self, state: &mut State, now: Instant) {
        let Some(since) = state.since else { return };
        let interval = self.period / self.burst.max(1);
        let missing = self.burst - state.tokens;
        let elapsed = now.saturating_duration_since(since);
        let earned = elapsed.as_nanos().checked_div(interval.as_nanos());
        match earned.and_then(|earned| u32::try_from(earned).ok()) {
            Some(earned) if earned < missing => {
                state.tokens += earned;
                state.since = Some(since + interval * earned);
            }
            _ => {
                state.tokens = self.burst;
                state.since = None;
            }
        }
    }
}

/// Logs a warning that a guest can cause, if the given [`RateLimit`] admits it.
/// The line says how many before it were suppressed.
macro_rules! warn_limited {
    ($limit:expr, $($message:tt)+) => {
        if let Some(suppressed) = $limit.admit() {
            tracing::warn!(suppressed, $($message)+);
        }
    };
}
pub(crate) use warn_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rest_is_counted() {
        let limit = RateLimit::new(3, Duration::from_secs(30));
        let start = Instant::now();
        assert_eq!([0; 3].map(|_| limit.admit_at(start)), [Some(0); 3]);
        assert_eq!([0; 4].map(|_| limit.admit_at(start)), [None; 4]);
        let later = start + Duration::from_secs(10);
        assert_eq!(limit.admit_at(later), Some(4));
        assert_eq!(limit.admit_at(later), None);
    }

    #[test]
    fn tokens_come_back_no_faster_than_the_rate() {
        let limit = RateLimit::new(2, Duration::from_secs(2));
        let start = Instant::now();
        let admitted = (0u32..1000)
            .filter(|&step| {
                limit
                    .admit_at(start + Duration::from_millis(10) * step)
                    .is_some()
            })
            .count();
        // 2 at once, then one a second for the remaining 9.99 s.
        assert_eq!(admitted, 2 + 9);
    }

    #[test]
    fn a_rest_fills_the_bucket_no_further_than_the_burst() {
        let limit = RateLimit::new(2, Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(limit.admit_at(start), Some(0));
        let later = start + Duration::from_secs(3600);
        assert_eq!(
            [0; 3].map(|_| limit.admit_at(later)),
            [Some(0), Some(0), None]
        );
    }

    #[test]
    fn a_burst_of_zero_admits_nothing() {
        let limit = RateLimit::new(0, Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(limit.admit_at(start), None);
        assert_eq!(limit.admit_at(start + Duration::from_secs(9)), None);
    }
}
