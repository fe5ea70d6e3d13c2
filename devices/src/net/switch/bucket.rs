//! Rate limits of a port, as token buckets.

use std::time::Duration;

use crate::net::time::Time;

/// Tokens are kept in billionths, so that a nanosecond at a rate of one a
/// second earns a whole number.
const TOKEN: i128 = 1_000_000_000;

/// A bound on how much may pass: `burst` at once, `per_second` on average.
///
/// What passes may be larger than the burst: it passes while a token is left,
/// and the bucket owes the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What the bucket earns each second. Zero admits the burst and no more.
    pub per_second: u64,
    /// What the bucket holds when full. Zero admits nothing.
    pub burst: u64,
}

/// Bounds on one kind of a port's traffic, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of frames, Ethernet header included.
    pub bytes: Option<Rate>,
    /// Frames. One that its receiver is to segment counts once.
    pub frames: Option<Rate>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Billionths of tokens, negative where the bucket owes.
    level: i128,
    /// When `level` was right.
    at: Time,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            level: i128::from(rate.burst) * TOKEN,
            at: Time::ZERO,
        }
    }

    fn refill(&mut self, now: Time) {
        let elapsed = now.since(self.at).as_nanos();
        if elapsed == 0 {
            return;
        }
        let earned = elapsed.saturating_mul(u128::from(self.rate.per_second));
        let earned = i128::try_from(earned).unwrap_or(i128::MAX);
        let full = i128::from(self.rate.burst) * TOKEN;
        self.level = self.level.saturating_add(earned).min(full);
        self.at = now;
    }

    fn charge(&mut self, amount: usize) {
        let amount = u64::try_from(amount).unwrap_or(u64::MAX);
        self.level -= i128::from(amount) * TOKEN;
    }

    /// How long from `now` until something may pass.
    fn wait(&mut self, now: Time) -> Duration {
        self.refill(now);
        if self.level > 0 {
            return Duration::ZERO;
        }
        // More than nothing, rounded up to whole nanoseconds.
        let missing = (1 - self.level).unsigned_abs();
        match u128::from(self.rate.per_second) {
            0 => Duration::MAX,
            _ if self.rate.burst == 0 => Duration::MAX,
            rate => {
                u64::try_from(missing.div_ceil(rate)).map_or(Duration::MAX, Duration::from_nanos)
            }
        }
    }
}

/// The buckets of one [`Limits`].
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes: Option<Bucket>,
    frames: Option<Bucket>,
}

impl Limiter {
    /// Full buckets.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            bytes: limits.bytes.map(Bucket::new),
            frames: limits.frames.map(Bucket::new),
        }
    }

    /// Whether a frame of `len` bytes may pass, which is charged only if so.
    #[inline]
    pub(crate) fn admit(&mut self, now: Time, len: usize) -> bool {
        if self.bytes.is_none() && self.frames.is_none() {
            return true;
        }
        if self.wait(now) > Duration::ZERO {
            return false;
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.charge(len);
        }
        if let Some(frames) = &mut self.frames {
            frames.charge(1);
        }
        true
    }

    /// When the next frame may pass: `now` if one may at once.
    pub(super) fn ready_at(&mut self, now: Time) -> Time {
        now + self.wait(now)
    }

    fn wait(&mut self, now: Time) -> Duration {
        let buckets = [&mut self.bytes, &mut self.frames];
        let waits = buckets.into_iter().flatten().map(|bucket| bucket.wait(now));
        waits.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(per_second: u64, burst: u64) -> Limiter {
        Limiter::new(Limits {
            bytes: Some(Rate { per_second, burst }),
            frames: None,
        })
    }

    #[test]
    fn no_limit_admits_all() {
        let mut limiter = Limiter::new(Limits::default());
        assert!((0..1000).all(|_| limiter.admit(Time::ZERO, usize::MAX)));
        assert_eq!(limiter.ready_at(Time(7)), Time(7));
    }

    #[test]
    fn a_large_frame_is_paid_for_afterwards() {
        let mut limiter = bytes(1000, 100);
        let start = Time(5_000_000_000);
        assert!(limiter.admit(start, 65_000));
        assert!(!limiter.admit(start, 1));
        // 64900 owed, and a billionth more than nothing.
        let ready = start + Duration::from_nanos(64_900_000_001);
        assert_eq!(limiter.ready_at(start), ready);
        assert!(!limiter.admit(start + Duration::from_secs(64), 1));
        assert!(limiter.admit(ready, 1));
    }

    #[test]
    fn frames_and_bytes_bind_each_for_itself() {
        let mut limiter = Limiter::new(Limits {
            bytes: Some(Rate {
                per_second: 1_000_000,
                burst: 1_000_000,
            }),
            frames: Some(Rate {
                per_second: 10,
                burst: 2,
            }),
        });
        assert_eq!(
            [0; 3].map(|_| limiter.admit(Time::ZERO, 60)),
            [true, true, false]
        );
        let later = Time::ZERO + Duration::from_secs(1);
        assert!(limiter.admit(later, 2_000_000));
        assert!(!limiter.admit(later, 60), "the bytes are spent");
    }

    #[test]
    fn what_never_earns_says_never() {
        for (per_second, burst) in [(0, 0), (1000, 0), (u64::MAX, 0)] {
            let mut limiter = bytes(per_second, burst);
            assert!(
                !limiter.admit(Time(u64::MAX - 1), 1),
                "{per_second} {burst}"
            );
            assert_eq!(limiter.ready_at(Time(1)), Time::NEVER);
        }
        let mut once = bytes(0, 1);
        assert!(once.admit(Time::ZERO, 1));
        assert!(!once.admit(Time::NEVER, 1));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_burst(
            per_second in 1u64..10_000_000_000,
            burst in 1u64..1_000_000,
            frames in prop::collection::vec((0u64..10_000_000, 0usize..70_000), 1..200),
        ) {
            let mut limiter = bytes(per_second, burst);
            let (mut now, mut passed, mut last) = (Time::ZERO, 0u128, 0u128);
            for (pause, len) in frames {
                now = now + Duration::from_nanos(pause);
                let ready = limiter.ready_at(now);
                let admitted = limiter.admit(now, len);
                prop_assert_eq!(admitted, ready == now);
                if admitted {
                    last = len as u128;
                    passed += last;
                }
                // What passed before the last frame had been earned in full.
                let earned = u128::from(now.0) * u128::from(per_second) / 1_000_000_000;
                prop_assert!(passed - last <= earned + u128::from(burst));
            }
        }

        #[test]
        fn waiting_until_ready_suffices(
            per_second in 1u64..=u64::MAX,
            burst in 1u64..=u64::MAX,
            lens in prop::collection::vec(0usize..70_000, 1..50),
        ) {
            let mut limiter = bytes(per_second, burst);
            let mut now = Time::ZERO;
            for len in lens {
                now = limiter.ready_at(now);
                prop_assert!(limiter.admit(now, len));
            }
        }
    }
}
