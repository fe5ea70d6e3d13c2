//! The engine's clock, which it is told and never reads.

use std::ops::Add;
use std::time::Duration;

/// A moment: nanoseconds of a monotonic clock since any fixed start.
///
/// A u64 holds 584 years; sums saturate at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The clock's start.
    pub const ZERO: Self = Self(0);

    /// A moment that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The time passed since `earlier`; zero if that is yet to come.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_differences_saturate() {
        let start = Time(1_000_000_000);
        let later = start + Duration::from_millis(1500);
        assert_eq!(later, Time(2_500_000_000));
        assert_eq!(later.since(start), Duration::from_millis(1500));
        assert_eq!(start.since(later), Duration::ZERO);
        assert_eq!(start + Duration::MAX, Time::NEVER);
        assert_eq!(Time::NEVER + Duration::from_nanos(1), Time::NEVER);
    }
}
